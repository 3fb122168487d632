use std::collections::BTreeMap;
use std::sync::mpsc;

use futures_util::FutureExt as _;
use proptest::prelude::*;

use super::*;

fn turns(places: usize, per_account: usize) -> Turns {
    Turns::new(Limits { places, per_account, waiting: 100, patience: Duration::from_secs(30) })
}

/// Gives up the turns that are under way one by one, and returns whose came next.
fn order(turn: Turn, waiting: Vec<Waiting>) -> String {
    let (mut turn, mut waiting, mut order) = (turn, waiting, String::new());
    loop {
        drop(turn);
        let next = waiting.iter_mut().enumerate().find_map(|(at, next)| Some((at, next.now_or_never()?)));
        let Some((at, next)) = next else { return order };
        drop(waiting.remove(at));
        order.push_str(&next.account);
        turn = next;
    }
}

#[test]
fn an_account_with_many_waiting_delays_another_by_what_is_under_way() {
    let turns = turns(1, 1);
    let first = turns.queue("A").now_or_never().unwrap();
    let waiting = ["A", "A", "A", "A", "B", "B", "C"].map(|account| turns.queue(account));
    assert_eq!(order(first, waiting.into()), "BCABAAA");
}

#[test]
fn accounts_that_come_and_go_keep_nobody_waiting() {
    let turns = turns(1, 1);
    let mut turn = turns.queue("1").now_or_never().unwrap();
    let waits = turns.queue("waits");
    let next = turns.queue("2");
    drop(turn);
    turn = waits.now_or_never().expect("it came before");
    drop(turn);
    drop(next.now_or_never().unwrap());
    assert!(turns.shared.lock().accounts.is_empty(), "nothing is left of accounts that have nothing here");
}

#[test]
fn the_account_with_the_fewest_turns_under_way_comes_first() {
    let turns = turns(3, 3);
    let mut held: Vec<Turn> =
        ["A", "A", "B"].map(|account| turns.queue(account).now_or_never().unwrap()).into();
    let (mut of_a, mut of_b) = (turns.queue("A"), turns.queue("B"));
    drop(held.pop());
    assert!((&mut of_a).now_or_never().is_none(), "it came first, and has two");
    let _b = (&mut of_b).now_or_never().unwrap();
    drop(held);
    assert!(of_a.now_or_never().is_some());
}

#[test]
fn an_account_has_no_more_than_its_part() {
    let turns = turns(4, 2);
    let mut many: Vec<Waiting> = (0..5).map(|_| turns.queue("A")).collect();
    let held: Vec<Turn> = many.iter_mut().filter_map(|waiting| waiting.now_or_never()).collect();
    assert_eq!(held.len(), 2);
    assert!(turns.queue("B").now_or_never().is_some(), "the others' places are free");
}

#[test]
fn changes_of_one_thing_come_one_after_another_and_of_two_at_once() {
    let turns = Turns::new(Limits::ONE_EACH);
    let first = turns.queue("one").now_or_never().unwrap();
    let (mut second, mut third) = (turns.queue("one"), turns.queue("one"));
    assert!((&mut second).now_or_never().is_none());
    drop(turns.queue("two").now_or_never().unwrap());
    assert!((&mut second).now_or_never().is_none());
    drop(first);
    let second = (&mut second).now_or_never().unwrap();
    assert!((&mut third).now_or_never().is_none());
    drop(second);
    assert!(third.now_or_never().is_some());
}

#[test]
fn who_gives_up_passes_its_turn_on() {
    let turns = turns(1, 1);
    let first = turns.queue("A").now_or_never().unwrap();
    let (gone, noticed_nothing, last) = (turns.queue("A"), turns.queue("A"), turns.queue("A"));
    drop(gone);
    drop(first);
    drop(noticed_nothing); // its turn had come
    assert!(last.now_or_never().is_some());
    assert!(turns.shared.lock().accounts.is_empty());
    assert_eq!(turns.shared.lock().free, 1);
}

#[tokio::test(start_paused = true)]
async fn nobody_waits_for_ever_and_no_queue_grows_without_end() {
    let limits = Limits { places: 1, per_account: 1, waiting: 2, patience: Duration::from_secs(30) };
    let turns = Turns::new(limits);
    let held = turns.take("A").await.unwrap();
    let one = turns.queue("A");
    let two = turns.queue("A");
    assert!(matches!(turns.take("A").await, Err(Busy)), "two wait already");
    assert!(matches!(turns.take("B").await, Err(Busy)), "its patience has ended");
    drop((one, two, held));
    assert!(turns.take("A").await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn where_nobody_waits_there_are_as_many_as_may_be() {
    let turns = Turns::new(Limits { per_account: 2, ..Limits::FOLLOWERS });
    let (one, _two) = (turns.take("A").await.unwrap(), turns.take("A").await.unwrap());
    assert!(matches!(turns.take("A").await, Err(Busy)));
    drop((turns.take("B").await.unwrap(), one));
    drop(turns.take("A").await.unwrap());
}

#[tokio::test]
async fn a_turn_is_the_threads_also_if_its_caller_has_gone() {
    let turns = turns(1, 1);
    let (end, ended) = mpsc::channel::<()>();
    let (began, begun) = oneshot::channel();
    let work = move || {
        let _ = began.send(());
        ended.recv()
    };
    let running = {
        let turns = turns.clone();
        tokio::spawn(async move { turns.run("A", work).await })
    };
    begun.await.unwrap();
    running.abort();
    assert!(running.await.unwrap_err().is_cancelled());
    let next = turns.queue("A");
    let mut next = std::pin::pin!(next);
    assert!(next.as_mut().now_or_never().is_none(), "the thread is not done");
    drop(end);
    drop(next.await);
}

/// What happens in a history: somebody comes, a turn ends, a waiter gives up. The number chooses among those there are.
#[derive(Debug, Clone)]
enum Step {
    Come(u8),
    End(usize),
    GiveUp(usize),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        3 => (0..4_u8).prop_map(Step::Come),
        2 => any::<usize>().prop_map(Step::End),
        1 => any::<usize>().prop_map(Step::GiveUp),
    ]
}

/// Turns under way by account.
fn count(held: &[Turn]) -> BTreeMap<String, usize> {
    let mut counts = BTreeMap::new();
    for turn in held {
        *counts.entry(turn.account.to_string()).or_default() += 1;
    }
    counts
}

proptest! {
    #[test]
    fn every_history_is_fair(
        steps in proptest::collection::vec(step(), 1..200),
        places in 1..4_usize,
        per_account in 1..4_usize,
    ) {
        let turns = turns(places, per_account);
        let (mut held, mut queue) = (Vec::<Turn>::new(), Vec::<Waiting>::new());
        for step in steps {
            match step {
                Step::Come(account) => queue.push(turns.queue(&account.to_string())),
                Step::End(number) if !held.is_empty() => drop(held.swap_remove(number % held.len())),
                Step::GiveUp(number) if !queue.is_empty() => drop(queue.remove(number % queue.len())),
                _ => continue,
            }
            let before = count(&held);
            // The queue is in the order of arrival.
            let mut arrived = Vec::new();
            queue = queue.into_iter().filter_map(|mut waiting| match (&mut waiting).now_or_never() {
                Some(turn) => {
                    arrived.push(turn);
                    None
                }
                None => Some(waiting),
            }).collect();
            for turn in &arrived {
                let of = |account: &str| before.get(account).copied().unwrap_or_default();
                for other in &queue {
                    let fewer = of(&other.account) < of(&turn.account);
                    prop_assert!(!fewer, "{} was served, and {} has fewer", turn.account, other.account);
                }
            }
            held.extend(arrived);
            let counts = count(&held);
            prop_assert!(held.len() <= places && counts.values().all(|turns| *turns <= per_account));
            let may = |waiting: &Waiting| counts.get(&*waiting.account).copied().unwrap_or_default() < per_account;
            prop_assert!(held.len() == places || !queue.iter().any(may), "a free place stays free");
        }
        drop((held, queue));
        prop_assert!(turns.shared.lock().accounts.is_empty());
    }

    #[test]
    fn between_two_turns_of_one_account_every_other_that_waits_has_one(
        many in 1..20_usize, others in 1..6_usize,
    ) {
        let turns = turns(1, 1);
        let first = turns.queue("A").now_or_never().unwrap();
        let mut waiting: Vec<Waiting> = (0..many).map(|_| turns.queue("A")).collect();
        let names: Vec<String> = ('B'..).take(others).map(String::from).collect();
        for name in &names {
            waiting.extend([turns.queue(name), turns.queue(name)]);
        }
        let round = names.concat();
        let rest = "A".repeat(many - 1);
        let expected = if many > 1 { format!("{round}A{round}{rest}") } else { format!("{round}A{round}") };
        prop_assert_eq!(order(first, waiting), expected);
    }
}
