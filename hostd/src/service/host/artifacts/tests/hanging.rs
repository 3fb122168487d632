//! A file that does not answer: a pipe that nobody writes to, whose opening waits.

use rustix::fs::{CWD, Mode, mkfifoat};

use super::*;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn files_that_hang_for_one_account_delay_no_other() {
    let home = Home::new();
    home.put(ACCOUNT, "app", b"data").await.unwrap();
    let key = Key::new("hangs").unwrap();
    let pipe = key.path(&home.artifacts.place(ACCOUNT).unwrap().objects);
    mkfifoat(CWD, &pipe, Mode::RWXU).unwrap();
    // More than the runtime has threads for what blocks.
    let reads: Vec<_> = (0..600)
        .map(|_| {
            let (artifacts, key) = (home.artifacts.clone(), key.clone());
            tokio::spawn(async move { artifacts.get(ACCOUNT, &key).await.map(drop) })
        })
        .collect();
    home.put(OTHER, "app", b"other's").await.unwrap();
    assert_eq!(home.get(OTHER, "app").await.unwrap(), b"other's");
    // Whoever has the pipe open for writing lets the reads go on. They find no artifact.
    let end = File::options().read(true).write(true).open(&pipe).unwrap();
    let mut refused = 0;
    for read in reads {
        let error = read.await.unwrap().unwrap_err();
        refused += usize::from(error.exception().name == "ThrottlingException");
    }
    assert!(refused >= 600 - 16 - 256, "what waits is bounded: {refused}");
    drop(end);
    assert_eq!(home.get(ACCOUNT, "app").await.unwrap(), b"data");
}
