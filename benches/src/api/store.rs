//! Reads, pages and commits on the store itself.

use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context as _, Result};
use hearth_hostd::records;
use hearth_hostd::store::rocks::{RocksOptions, RocksStore, Syncs};
use hearth_hostd::store::{Db, Scan, Store, Table};
use hearth_proto::store::v1::MicrovmRecord;
use tokio::runtime::{Builder, Runtime};
use tokio::task::JoinSet;

use crate::records::{ACCOUNT, id, insert, started_ms, update};
use crate::{Dice, PAGE, Plan, figure, per_second, rates};
use hearth_benches::report::{Better, Figure};

/// Batches that are made durable together while the store is filled.
const GROUP: u64 = 2000;
/// Numbers of concurrent writers.
const WRITERS: [u64; 3] = [1, 16, 256];

/// Fills a store at `path` and measures it.
pub(crate) fn measure(path: &Path, plan: &Plan) -> Result<Vec<Figure>> {
    let mut figures = vec![fill(path, plan)?];
    let start = Instant::now();
    let store = Arc::new(RocksStore::open(path, &RocksOptions::default())?);
    let opened = start.elapsed().as_secs_f64();
    figures.push(figure("store: opened, with all checksums", "s", Better::Lower, vec![opened]));
    let db = Db::new(Arc::clone(&store) as Arc<dyn Store>);
    let mut dice = Dice(1);
    let gets = rates(plan, || {
        let key = records::microvm(ACCOUNT, &id(dice.below(plan.microvms)));
        db.get::<MicrovmRecord>(Table::Microvms, &key)?.context("a microVM is missing")?;
        Ok(1)
    })?;
    figures.push(figure("store: Get of a microVM, one thread", "1/s", Better::Higher, gets));
    let pages = rates(plan, || page(&db, dice.below(plan.microvms)).map(|()| 1))?;
    let each = pages.iter().map(|rate| 1000.0 / rate).collect();
    figures.push(figure("store: page of 50 microVMs, anywhere", "ms", Better::Lower, each));
    let runtime = Builder::new_multi_thread().enable_all().build().context("starting a runtime")?;
    for writers in WRITERS {
        figures.extend(commits(&runtime, &db, &store, plan, writers)?);
    }
    Ok(figures)
}

fn fill(path: &Path, plan: &Plan) -> Result<Figure> {
    let options = RocksOptions { verify: false, ..RocksOptions::default() };
    let store = RocksStore::open(path, &options)?;
    let start = Instant::now();
    let mut next = 0;
    while next < plan.microvms {
        let end = (next + GROUP).min(plan.microvms);
        let batches: Vec<_> = (next..end).map(insert).collect();
        for result in store.commit(&batches) {
            result?;
        }
        next = end;
    }
    let rate = per_second(plan.microvms, start.elapsed());
    let name = format!("store: filled with {} microVMs", plan.microvms);
    Ok(figure(&name, "1/s", Better::Higher, vec![rate]))
}

/// The page after a microVM, as ListMicrovms reads it: the index, then the records.
fn page(db: &Db, behind: u64) -> Result<()> {
    let prefix = records::account(ACCOUNT);
    let after = records::microvm_by_time(ACCOUNT, started_ms(behind.max(100)), &id(behind.max(100)));
    let scan = Scan { table: Table::MicrovmsByTime, prefix: &prefix, after: Some(&after), limit: PAGE + 1 };
    let keys = db.scan(&scan)?;
    anyhow::ensure!(keys.len() > PAGE, "a page has {} of {PAGE} items", keys.len());
    for (key, _) in keys.iter().take(PAGE) {
        let id = key.get(prefix.len() + 8..).context("a key is too short")?;
        let key = [prefix.as_slice(), id].concat();
        db.get::<MicrovmRecord>(Table::Microvms, &key)?.context("a microVM is missing")?;
    }
    Ok(())
}

/// Changes of state by this many concurrent writers: their rate, and the time of the fsyncs for them.
fn commits(runtime: &Runtime, db: &Db, store: &RocksStore, plan: &Plan, writers: u64) -> Result<Vec<Figure>> {
    let (mut rates, mut grouped, mut syncs) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..plan.rounds {
        let before = store.syncs();
        let start = Instant::now();
        let done = runtime.block_on(write(db, plan, writers, start))?;
        rates.push(per_second(done, start.elapsed()));
        let (count, mean) = since(&before, &store.syncs());
        grouped.push(per_second(done, std::time::Duration::from_secs(1)) / count.max(1.0));
        syncs.push(mean);
    }
    let by = format!("{writers} at a time");
    Ok(vec![
        figure(&format!("store: durable changes of state, {by}"), "1/s", Better::Higher, rates),
        figure(&format!("– in one fsync, {by}"), "", Better::Higher, grouped),
        figure(&format!("– an fsync of those, {by}"), "µs", Better::Lower, syncs),
    ])
}

async fn write(db: &Db, plan: &Plan, writers: u64, start: Instant) -> Result<u64> {
    let mut tasks = JoinSet::new();
    for writer in 0..writers {
        let (db, microvms, round) = (db.clone(), plan.microvms, plan.round);
        tasks.spawn(async move {
            let (mut dice, mut done) = (Dice(writer), 0);
            while start.elapsed() < round {
                db.commit(update(dice.below(microvms))).await?;
                done += 1;
            }
            anyhow::Ok(done)
        });
    }
    let mut done = 0;
    while let Some(result) = tasks.join_next().await {
        done += result??;
    }
    Ok(done)
}

/// The number of fsyncs between two samples, and their mean time.
#[expect(clippy::cast_precision_loss, reason = "counts are far below 2^52")]
fn since(before: &Syncs, after: &Syncs) -> (f64, f64) {
    let count = after.count.saturating_sub(before.count) as f64;
    let total = after.mean * after.count as f64 - before.mean * before.count as f64;
    (count, total / count.max(1.0))
}
