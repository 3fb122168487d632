//! MicroVMs of an image must not know anything of its build.

use std::collections::HashSet;
use std::fs;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use hearth_host::roles::{Provider, RolesConfig, Secret, StaticKeys};
use hearth_image_builder::build::LogStream;
use hearth_model::role::RoleUse;
use hearth_testing::search::find;

use super::support::{RecordedEvents, Site, ask};

/// How the apps answer: hooks with nothing.
const ANSWERS: &str = r#"
import http.server
class Answers(http.server.BaseHTTPRequestHandler):
    def answer(self, text):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(text.encode())
    def do_POST(self):
        self.answer("")
    def log_message(self, *words):
        pass
"#;

/// Prints the time and a random number every millisecond, and serves the metadata service's answer at a path. It requests
/// only the names of roles: credentials that it fetched would be in its memory, and in every clone's.
const APP: &str = r#"
import os, threading, time, urllib.error, urllib.request
# Many, since a text that lies across the end of a page need not go on in the next one of the machine.
KEPT = [os.environ["KEPT_ONE"] + os.environ["KEPT_OTHER"] + str(number) for number in range(100)]
SERVICE = "http://169.254.169.254/latest/"
def metadata(path):
    seconds = {"X-aws-ec2-metadata-token-ttl-seconds": "21600"}
    token = urllib.request.Request(SERVICE + "api/token", method="PUT", headers=seconds)
    token = urllib.request.urlopen(token, timeout=30).read().decode()
    asked = urllib.request.Request(SERVICE + path, headers={"X-aws-ec2-metadata-token": token})
    try:
        return urllib.request.urlopen(asked, timeout=30).read().decode()
    except urllib.error.HTTPError as error:
        return str(error.code)
def tick():
    while True:
        print("tick", time.time_ns(), os.urandom(8).hex(), flush=True)
        time.sleep(0.001)
class Handler(Answers):
    def do_GET(self):
        self.answer(metadata(self.path.lstrip("/")))
print("role:", metadata("meta-data/iam/security-credentials/"), flush=True)
threading.Thread(target=tick, daemon=True).start()
http.server.ThreadingHTTPServer(("0.0.0.0", 8080), Handler).serve_forever()
"#;

const ROLE: &str = "arn:aws:iam::111122223333:role/build";
/// Timeout for lines on the emulated metal.
const LINE_TIMEOUT: Duration = Duration::from_secs(120);

fn secret() -> String {
    format!("{}{}", uuid::Uuid::new_v4().simple(), uuid::Uuid::new_v4().simple())
}

/// The times and random numbers that the app has printed.
fn ticks(events: &RecordedEvents) -> Vec<(u128, String)> {
    let lines = events.lines(LogStream::Snapshot);
    let ticks = lines.iter().filter_map(|line| {
        let (time, random) = line.strip_prefix("tick ")?.split_once(' ')?;
        Some((time.parse().unwrap(), random.to_owned()))
    });
    ticks.collect()
}

async fn first_ticks(events: &RecordedEvents) -> Vec<(u128, String)> {
    let wait = async {
        loop {
            let ticks = ticks(events);
            if ticks.len() >= 20 {
                return ticks;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(LINE_TIMEOUT, wait).await.expect("the app goes on")
}

#[tokio::test]
async fn clones_have_neither_the_builds_credentials_nor_its_time_nor_its_chance() {
    let Some(mut site) = Site::alone() else { return };
    let keys = StaticKeys {
        access_key_id: secret(),
        secret_access_key: Secret::new(secret()),
        session_token: Some(Secret::new(secret())),
    };
    site.roles = RolesConfig {
        rules: [(ROLE.to_owned(), Provider::Static(keys.clone()).into())].into(),
        ..RolesConfig::default()
    };
    let context = site.dockerfile(
        "ticking",
        "FROM hearth/python:3.13\nCOPY app.py /\nENTRYPOINT [\"python3\", \"/app.py\"]\n",
    );
    fs::write(context.join("app.py"), [ANSWERS, APP].concat()).unwrap();
    let mut request = site.request(&context, "ticking");
    request.build_role = Some(RoleUse::new(request.platform.account.clone(), ROLE));
    let kept = secret();
    let (one, other) = kept.split_at(32);
    request.environment.insert("KEPT_ONE".into(), one.into());
    request.environment.insert("KEPT_OTHER".into(), other.into());
    let (built, events) = site.build(&request).await;
    let image = built.unwrap();
    let lines = events.lines(LogStream::Snapshot);
    assert!(
        lines.iter().any(|line| line == "role: execution_role"),
        "the build had no credentials: {lines:?}"
    );

    // The credentials are nowhere in the files of the snapshot, in which the search does find the app's own secret.
    let snapshot = image.folder().join("snapshot");
    assert!(find(&snapshot.join("memory"), &kept).is_some(), "the search finds nothing");
    let token = keys.session_token.as_ref().unwrap();
    for file in fs::read_dir(&snapshot).unwrap().map(|entry| entry.unwrap().path()) {
        // A larger file is a layer of the disk, most of it holes.
        if fs::metadata(&file).unwrap().len() > 1 << 30 {
            continue;
        }
        for secret in [keys.access_key_id.as_str(), keys.secret_access_key.expose(), token.expose()] {
            let found = find(&file, secret);
            assert_eq!(found, None, "a part of the build's credentials is in {}", file.display());
        }
    }

    // The first lines of clones have their own time, and no two clones print the same random number.
    let mut seen: HashSet<String> = ticks(&events).into_iter().map(|(_, random)| random).collect();
    for _ in 0..2 {
        let began = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_nanos();
        let events = RecordedEvents::default();
        let trial = site.try_out(&image, "", &events).await;
        for (time, random) in first_ticks(&events).await {
            assert!(time >= began, "a line of {time}, before the launch at {began}");
            assert!(seen.insert(random), "a number that another one had drawn");
        }
        assert_eq!(ask(&trial, "GET /meta-data/iam/security-credentials/").await.1, "404");
        assert_eq!(ask(&trial, "GET /meta-data/instance-id").await.1, trial.id());
        drop(trial);
    }
    site.assert_clean();
}

/// Draws random numbers of OpenSSL in one thread, before the snapshot and at each request, and watches the generation.
const DRAWING: &str = r#"
import ctypes, mmap, os, select, ssl
PATH = "/run/hearth/generation"
IN_MODIFY = 2
libc = ctypes.CDLL(None)
watch = libc.inotify_init()
libc.inotify_add_watch(watch, PATH.encode(), IN_MODIFY)
with open(PATH, "rb") as file:
    mapped = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)
class Handler(Answers):
    def do_GET(self):
        changed = bool(select.select([watch], [], [], 0)[0])
        self.answer(f"{ssl.RAND_bytes(16).hex()} {changed} {mapped[:].decode().strip()}")
ssl.create_default_context()
print("drew", ssl.RAND_bytes(16).hex(), mapped[:].decode(), flush=True)
http.server.HTTPServer(("0.0.0.0", 8080), Handler).serve_forever()
"#;

#[tokio::test]
async fn clones_draw_no_number_of_openssl_twice_and_find_another_generation() {
    let Some(site) = Site::new() else { return };
    let context = site.dockerfile(
        "drawing",
        "FROM hearth/python:3.13\nCOPY app.py /\nCOPY libcrypto.so.1.1 /opt/\n\
         RUN apt-get --version && ! ls /usr/lib/hearth\nENTRYPOINT [\"python3\", \"/app.py\"]\n",
    );
    fs::write(context.join("app.py"), [ANSWERS, DRAWING].concat()).unwrap();
    let old = "\x7fELF OpenSSL 1.1.1w  11 Sep 2023\0OPENSSLDIR: \"/usr/lib/ssl\"\0";
    fs::write(context.join("libcrypto.so.1.1"), old).unwrap();
    let (built, events) = site.build(&site.request(&context, "drawing")).await;
    let image = built.unwrap();
    let warnings = events.lines(LogStream::Build);
    let warnings: Vec<_> = warnings.iter().filter(|line| line.starts_with("warning: ")).collect();
    assert!(
        matches!(warnings.as_slice(), [one] if one.contains(" /opt/libcrypto.so.1.1 (OpenSSL 1.1.1w) ")),
        "OpenSSL 3 is no reason to warn: {warnings:?}"
    );
    let lines = events.lines(LogStream::Snapshot);
    let drew = lines.iter().find_map(|line| line.strip_prefix("drew ")).unwrap();
    let (first, built_as) = drew.split_once(' ').unwrap();
    let mut seen = HashSet::from([first.to_owned()]);
    for _ in 0..2 {
        let events = RecordedEvents::default();
        let trial = site.try_out(&image, "", &events).await;
        let (_, answer) = ask(&trial, "GET /").await;
        let words: Vec<_> = answer.split(' ').collect();
        assert!(seen.insert(words[0].to_owned()), "a number that another one had drawn");
        assert_eq!(words[1], "True", "the change is there before the first request");
        assert!(words[2] > built_as, "{answer}, and {built_as} in the build");
        drop(trial);
    }
}
