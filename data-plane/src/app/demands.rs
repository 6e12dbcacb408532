//! The virtual hosts that requests wait for, or once waited for. Pure: what to answer is passed in.
//!
//! Each stays asked for, so that the control plane says when it changes or appears. Their names come
//! from clients, so there are only so many that came to nothing.

use std::collections::BTreeMap;
use std::sync::Arc;

use tokio::sync::oneshot;

use crate::compile::virtual_hosts::table_of;
use crate::filtering::on_demand::{Answer, Ask};

/// How many names are remembered for which there is no virtual host.
const FRUITLESS_MAX: usize = 4096;

/// Names of virtual hosts (`ROUTES/HOST`), and what is known of each.
#[derive(Debug, Default)]
pub(super) struct Demands {
    all: BTreeMap<Arc<str>, Demand>,
    /// How many of them have no resource.
    fruitless: usize,
    next_turn: u64,
}

#[derive(Debug)]
struct Demand {
    /// The resource that came for it.
    resource: Option<Arc<str>>,
    /// The control plane says that there is none.
    is_absent: bool,
    /// Who waits for it.
    replies: Vec<oneshot::Sender<Answer>>,
    /// When it was last asked for, as a number that grows.
    turn: u64,
}

impl Demands {
    /// Takes in what a request waits for. Whether its name is a new one to ask for.
    pub(super) fn ask(&mut self, ask: Ask) -> bool {
        let name = [&*ask.table, "/", &*ask.host].concat();
        self.next_turn += 1;
        if let Some(demand) = self.all.get_mut(&*name) {
            demand.turn = self.next_turn;
            if demand.is_absent {
                answer(ask.reply, Answer::Absent);
            } else {
                demand.replies.retain(|reply| !reply.is_closed());
                demand.replies.push(ask.reply);
            }
            return false;
        }
        if self.fruitless >= FRUITLESS_MAX && !self.evict() {
            answer(ask.reply, Answer::Full);
            return false;
        }
        let (resource, is_absent) = (None, false);
        let demand = Demand { resource, is_absent, replies: vec![ask.reply], turn: self.next_turn };
        self.all.insert(name.into(), demand);
        self.fruitless += 1;
        true
    }

    /// Drops the name that nobody has asked for the longest; not one that somebody waits for.
    fn evict(&mut self) -> bool {
        let is_idle = |demand: &Demand| {
            demand.resource.is_none() && demand.replies.iter().all(oneshot::Sender::is_closed)
        };
        let idle = self.all.iter().filter(|(_, demand)| is_idle(demand));
        let Some(oldest) = idle.min_by_key(|(_, demand)| demand.turn) else { return false };
        let oldest = Arc::clone(oldest.0);
        self.all.remove(&oldest);
        self.fruitless -= 1;
        true
    }

    /// A virtual host is there that nobody asked for by another name: it came from the disk.
    pub(super) fn restore(&mut self, resource: &Arc<str>) {
        let demand = Demand {
            resource: Some(Arc::clone(resource)),
            is_absent: false,
            replies: Vec::new(),
            turn: 0,
        };
        self.all.entry(Arc::clone(resource)).or_insert(demand);
    }

    /// A resource came, which has this name or may be asked for by it.
    pub(super) fn note(&mut self, name: &str, resource: &Arc<str>) {
        if let Some(demand) = self.all.get_mut(name) {
            demand.is_absent = false;
            if demand.resource.replace(Arc::clone(resource)).is_none() {
                self.fruitless -= 1;
            }
        }
    }

    /// The control plane says that there is no virtual host for this name, or that it is gone.
    pub(super) fn note_absent(&mut self, name: &str) {
        for (asked, demand) in &mut self.all {
            let is_meant = **asked == *name || demand.resource.as_deref() == Some(name);
            if is_meant {
                demand.is_absent = true;
                if demand.resource.take().is_some() {
                    self.fruitless += 1;
                }
            }
        }
    }

    /// Answers those who wait: `serves` says whether requests for a host of a table find it by now,
    /// `is_coming` whether a resource is there that is not in force yet.
    pub(super) fn review(
        &mut self,
        serves: impl Fn(&str, &str) -> bool,
        is_coming: impl Fn(&str) -> bool,
    ) {
        for (name, demand) in self.all.iter_mut().filter(|(_, demand)| !demand.replies.is_empty()) {
            let (table, host) = name.rsplit_once('/').unwrap_or_default();
            let has_come = demand.resource.as_ref().is_some_and(|resource| !is_coming(resource));
            let verdict = if serves(table, host) {
                Answer::There
            } else if demand.is_absent || has_come {
                Answer::Absent
            } else {
                continue;
            };
            demand.replies.drain(..).for_each(|reply| answer(reply, verdict));
        }
    }

    /// Keeps only what is for tables that have virtual hosts that come by themselves.
    pub(super) fn retain(&mut self, has_hosts: impl Fn(&str) -> bool) {
        let is_left = |name: &Arc<str>| !table_of(name).is_some_and(&has_hosts);
        let left: Vec<_> = self.all.keys().filter(|name| is_left(name)).cloned().collect();
        for name in left {
            let Some(demand) = self.all.remove(&name) else { continue };
            self.fruitless -= usize::from(demand.resource.is_none());
            demand.replies.into_iter().for_each(|reply| answer(reply, Answer::Absent));
        }
    }

    /// The names to ask for.
    pub(super) fn names(&self) -> impl Iterator<Item = &Arc<str>> {
        self.all.keys()
    }
}

fn answer(reply: oneshot::Sender<Answer>, answer: Answer) {
    // Who asked may have gone.
    let _is_heard = reply.send(answer);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(demands: &mut Demands, host: &str) -> (bool, oneshot::Receiver<Answer>) {
        let (reply, answer) = oneshot::channel();
        let is_new = demands.ask(Ask { table: "r".into(), host: host.into(), reply });
        (is_new, answer)
    }

    fn names(demands: &Demands) -> Vec<&str> {
        demands.names().map(|name| &**name).collect()
    }

    #[test]
    fn a_host_is_asked_for_once_and_all_who_wait_are_answered() {
        let mut demands = Demands::default();
        let (is_new, mut first) = ask(&mut demands, "a");
        let (is_again, mut second) = ask(&mut demands, "a");
        assert!(is_new && !is_again);
        assert_eq!(names(&demands), ["r/a"]);
        demands.review(|_, _| false, |_| false);
        assert!(first.try_recv().is_err());
        demands.note("r/a", &"r/shop".into());
        demands.review(|_, _| false, |resource| resource == "r/shop");
        assert!(first.try_recv().is_err(), "it waits for its clusters");
        demands.review(|table, host| (table, host) == ("r", "a"), |_| false);
        assert_eq!((first.try_recv(), second.try_recv()), (Ok(Answer::There), Ok(Answer::There)));
    }

    #[test]
    fn what_is_not_there_is_answered_at_once_until_it_comes() {
        let mut demands = Demands::default();
        let (_, mut first) = ask(&mut demands, "a");
        demands.note_absent("r/a");
        demands.review(|_, _| false, |_| false);
        assert_eq!(first.try_recv(), Ok(Answer::Absent));
        let (is_new, mut second) = ask(&mut demands, "a");
        assert_eq!((is_new, second.try_recv()), (false, Ok(Answer::Absent)));
        demands.note("r/a", &"r/a".into());
        demands.note_absent("r/a");
        let (is_new, mut third) = ask(&mut demands, "a");
        assert_eq!((is_new, third.try_recv()), (false, Ok(Answer::Absent)), "it is gone again");
        assert_eq!(names(&demands), ["r/a"], "and asked for all the time");
    }

    #[test]
    fn a_host_that_came_without_the_domain_is_not_there() {
        let mut demands = Demands::default();
        let (_, mut answer) = ask(&mut demands, "a");
        demands.note("r/a", &"r/b".into());
        demands.review(|_, _| false, |_| false);
        assert_eq!(answer.try_recv(), Ok(Answer::Absent));
    }

    #[test]
    fn names_that_come_to_nothing_make_room_but_not_while_somebody_waits() {
        let mut demands = Demands::default();
        let (_, waits) = ask(&mut demands, "waits");
        let (_, there) = ask(&mut demands, "there");
        demands.note("r/there", &"r/there".into());
        drop(there);
        for number in 0..FRUITLESS_MAX * 2 {
            let (is_new, _gone) = ask(&mut demands, &format!("host-{number}"));
            assert!(is_new);
        }
        assert_eq!(demands.all.len(), FRUITLESS_MAX + 1);
        let all = names(&demands);
        assert!(all.contains(&"r/waits") && all.contains(&"r/there") && !all.contains(&"r/host-0"));
        drop(waits);
        let waiting: Vec<_> =
            (0..FRUITLESS_MAX).map(|number| ask(&mut demands, &format!("w-{number}"))).collect();
        assert!(waiting.iter().all(|(is_new, _)| *is_new));
        let (is_new, mut answer) = ask(&mut demands, "one-too-many");
        assert_eq!((is_new, answer.try_recv()), (false, Ok(Answer::Full)));
    }

    #[test]
    fn a_table_that_leaves_takes_its_names_along() {
        let mut demands = Demands::default();
        let (_, mut answer) = ask(&mut demands, "a");
        demands.restore(&"r/b".into());
        demands.restore(&"q/b".into());
        demands.retain(|table| table == "q");
        assert_eq!(answer.try_recv(), Ok(Answer::Absent));
        assert_eq!((names(&demands), demands.fruitless), (vec!["q/b"], 0));
    }
}
