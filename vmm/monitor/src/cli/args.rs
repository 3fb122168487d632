//! Command line values that consist of parts: `PATH,key=value,…`.

use std::path::PathBuf;
use std::str::FromStr;

/// Splits a value into its first part and the `key=value` or flag parts after it.
fn parts(text: &str) -> (&str, impl Iterator<Item = (&str, Option<&str>)>) {
    let mut parts = text.split(',');
    let first = parts.next().unwrap_or_default();
    (first, parts.map(|part| part.split_once('=').map_or((part, None), |(key, value)| (key, Some(value)))))
}

/// How a disk is attached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum DiskMode {
    ReadOnly,
    Writable,
    Overlay(PathBuf),
}

/// `PATH[,ro|,rw|,overlay=PATH][,serial=ID]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Disk {
    pub(super) path: PathBuf,
    pub(super) mode: DiskMode,
    pub(super) serial: String,
}

impl FromStr for Disk {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (path, options) = parts(text);
        let mut disk = Self { path: path.into(), mode: DiskMode::ReadOnly, serial: String::new() };
        if path.is_empty() {
            return Err("a disk needs a path".into());
        }
        for option in options {
            match option {
                ("ro", None) => disk.mode = DiskMode::ReadOnly,
                ("rw", None) => disk.mode = DiskMode::Writable,
                ("overlay", Some(path)) if !path.is_empty() => disk.mode = DiskMode::Overlay(path.into()),
                ("serial", Some(serial)) => disk.serial = serial.into(),
                (key, _) => {
                    return Err(format!("{key:?} is no disk option: use ro, rw, overlay=PATH, serial=ID"));
                }
            }
        }
        Ok(disk)
    }
}

/// `NAME[,mac=XX:XX:XX:XX:XX:XX][,mtu=N]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Tap {
    pub(super) name: String,
    pub(super) mac: Option<[u8; 6]>,
    pub(super) mtu: Option<u16>,
}

fn mac(text: &str) -> Result<[u8; 6], String> {
    let wrong =
        || format!("{text:?} is no MAC address: write six hexadecimal bytes, as in 06:00:00:00:00:01");
    let bytes: Vec<u8> = text
        .split(':')
        .map(|byte| u8::from_str_radix(byte, 16).map_err(|_| wrong()))
        .collect::<Result<_, _>>()?;
    let mac = <[u8; 6]>::try_from(bytes).map_err(|_| wrong())?;
    if mac[0] & 1 == 1 {
        return Err(format!("{text:?} is a multicast address: the lowest bit of its first byte must be 0"));
    }
    Ok(mac)
}

impl FromStr for Tap {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (name, options) = parts(text);
        let mut tap = Self { name: name.into(), mac: None, mtu: None };
        if name.is_empty() {
            return Err("a network card needs the name of a tap".into());
        }
        for option in options {
            match option {
                ("mac", Some(text)) => tap.mac = Some(mac(text)?),
                ("mtu", Some(text)) => {
                    let mtu = text.parse().ok().filter(|mtu| *mtu >= 68);
                    tap.mtu = Some(mtu.ok_or_else(|| format!("{text:?} is no MTU: use 68 to 65535"))?);
                }
                (key, _) => return Err(format!("{key:?} is no network option: use mac=ADDRESS, mtu=BYTES")),
            }
        }
        Ok(tap)
    }
}

/// `PATH[,cid=N]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Vsock {
    pub(super) path: PathBuf,
    pub(super) cid: u32,
}

impl FromStr for Vsock {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (path, options) = parts(text);
        let mut vsock = Self { path: path.into(), cid: 3 };
        if path.is_empty() {
            return Err("the vsock device needs the path of a socket to make".into());
        }
        for option in options {
            match option {
                ("cid", Some(text)) => {
                    vsock.cid =
                        text.parse().map_err(|_| format!("{text:?} is no context id: use 3 or more"))?;
                }
                (key, _) => return Err(format!("{key:?} is no vsock option: use cid=N")),
            }
        }
        Ok(vsock)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn disks_are_read_only_unless_told_otherwise() {
        let disk = |text: &str| text.parse::<Disk>();
        assert_eq!(disk("/a").unwrap().mode, DiskMode::ReadOnly);
        assert_eq!(disk("/a,rw,serial=root").unwrap().serial, "root");
        assert_eq!(disk("/a,overlay=/b").unwrap().mode, DiskMode::Overlay("/b".into()));
        assert!(disk("").unwrap_err().contains("path"));
        assert!(disk("/a,rx").unwrap_err().contains("\"rx\""));
        assert!(disk("/a,overlay=").is_err());
    }

    #[test]
    fn taps_and_sockets_say_what_is_wrong_with_them() {
        let tap = |text: &str| text.parse::<Tap>();
        assert_eq!(tap("tap0,mac=06:00:00:00:00:0a").unwrap().mac, Some([6, 0, 0, 0, 0, 10]));
        assert!(tap("tap0,mac=06:00").unwrap_err().contains("06:00"));
        assert!(tap("tap0,mac=01:00:00:00:00:00").unwrap_err().contains("multicast"));
        assert!(tap("tap0,mtu=1").unwrap_err().contains("68"));
        assert_eq!("/v,cid=9".parse::<Vsock>().unwrap(), Vsock { path: "/v".into(), cid: 9 });
        assert!("/v,port=1".parse::<Vsock>().is_err());
    }
}
