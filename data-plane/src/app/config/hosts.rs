//! Virtual hosts that come by themselves, and the requests that wait for them.

use std::sync::Arc;

use tokio::sync::mpsc;
use xds_proto::resource::ResourceType;

use super::ConfigLoop;
use crate::filtering::on_demand::Ask;
use crate::xds::subscription::Wanted;

/// Requests that are heard in one go.
const ASKS: usize = 64;

impl ConfigLoop {
    /// Asks the control plane for what requests wait for; answers those whose answer is known.
    pub(super) fn hear_requests(&mut self, first: Ask, more: &mut mpsc::Receiver<Ask>) {
        let mut has_news = false;
        let mut next = Some(first);
        for _ in 0..ASKS {
            let Some(ask) = next.take() else { break };
            // One that is not served any more has nobody to ask.
            if self.wanted.of(ResourceType::VirtualHost).below.contains(&ask.table) {
                has_news |= self.demands.ask(ask);
            }
            next = more.try_recv().ok();
        }
        if has_news {
            let names = self.demands.names().cloned().collect();
            let mut wanted = Wanted::clone(&self.wanted);
            wanted.of_mut(ResourceType::VirtualHost).names = names;
            self.want(wanted);
        }
        self.answer_requests();
    }

    /// Takes in what a response says: names and aliases of what it has, and names of what is gone or
    /// was never there.
    pub(super) fn note_hosts<'a>(
        &mut self,
        known: impl Iterator<Item = (&'a Arc<str>, &'a Arc<str>)>,
        gone: impl Iterator<Item = &'a Arc<str>>,
    ) {
        let contains = |name: &str| self.tables.contains(ResourceType::VirtualHost, name);
        for (name, resource) in known {
            if contains(resource) {
                self.demands.note(name, resource);
            } else {
                // It was refused, and there is none before it.
                self.demands.note_absent(name);
            }
        }
        // A name without a body may also say that nothing has changed.
        gone.filter(|name| !contains(name)).for_each(|name| self.demands.note_absent(name));
    }

    /// Answers requests whose virtual hosts are in force, or do not exist.
    pub(super) fn answer_requests(&mut self) {
        let (current, waiting) = (&self.current, &self.waiting);
        self.demands.review(
            |table, host| {
                let routes = current.routes.get(table);
                routes.is_some_and(|routes| routes.table.has_host(host))
            },
            |resource| waiting.iter().any(|waiting| *waiting.user == *resource),
        );
    }

    /// Drops the virtual hosts of route configurations that have none, or are gone.
    pub(super) fn forget_hosts(&mut self, wanted: &Wanted) {
        let (kind, below) =
            (ResourceType::VirtualHost, &wanted.of(ResourceType::VirtualHost).below);
        for table in self.wanted.of(kind).below.difference(below) {
            for name in self.tables.forget_virtual_hosts(table) {
                self.cache.forget(kind, &name);
            }
        }
        self.demands.retain(|table| below.contains(table));
    }
}
