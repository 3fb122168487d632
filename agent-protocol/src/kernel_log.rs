//! Records of a kernel's log, as `/dev/kmsg` gives them (the kernel's Documentation/ABI/testing/dev-kmsg):
//! `3,812,77190,-;Out of memory: Killed process 71 (cc1plus) total-vm:…`.

/// Priorities of the kernel's own records are below this one. Records of processes, which could say anything, have other facilities.
const OTHERS: u32 = 8;

/// The name of the process that a record says the kernel has killed because no memory was left. The process could choose it.
#[must_use]
pub fn killed(record: &[u8]) -> Option<String> {
    let record = String::from_utf8_lossy(record);
    let (head, message) = record.split_once(';')?;
    let priority: u32 = head.split(',').next()?.parse().ok()?;
    let (_, killed) = (priority < OTHERS).then(|| message.split_once("Killed process "))??;
    let (_, name) = killed.split_once(" (")?;
    let (name, _) = name.split_once(") total-vm:")?;
    Some(name.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_kernel_says_who_was_killed() {
        let end = "total-vm:1200kB, anon-rss:1100kB";
        let record = format!("3,812,77190,-;Out of memory: Killed process 71 (cc1plus) {end}");
        assert_eq!(killed(record.as_bytes()).as_deref(), Some("cc1plus"));
        let record =
            format!("3,1,2,-;Memory cgroup out of memory: Killed process 9 (a) (b) {end}\n SUBSYSTEM=x");
        assert_eq!(killed(record.as_bytes()).as_deref(), Some("a) (b"));
        let said = format!("12,812,77190,-;Out of memory: Killed process 71 (cc1plus) {end}");
        let bare = format!("Out of memory: Killed process 71 (cc1plus) {end}");
        for other in [
            said.as_str(),
            bare.as_str(),
            "",
            ";",
            "3;Killed process",
            "3,1;Killed process 1 (x)",
            "x;Killed process 1 (x) total-vm:",
            "6,1,2,-;an ordinary line",
        ] {
            assert_eq!(killed(other.as_bytes()), None, "{other}");
        }
    }
}
