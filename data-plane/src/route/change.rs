//! What a route changes of a request on its way upstream, and of the response on its way back.

use std::borrow::Cow;

use http::request::Parts;
use http::{HeaderMap, HeaderValue, Uri};

use super::action::{Action, Forward, WeightedCluster};
use super::{Found, Mutations, rewrite};
use crate::format::Context;
use crate::format::mutation::{HeaderMutations, Side};

impl Found<'_> {
    /// Changes a request on its way upstream: headers, then host, then path. With
    /// `keeps_originals` what host and path were is noted in `x-envoy-original-host` and `-path`
    /// (Envoy does unless its router has `suppress_envoy_headers`).
    pub fn rewrite_request(
        &self,
        head: &mut Parts,
        picked: Option<&WeightedCluster>,
        context: &Context<'_>,
        keeps_originals: bool,
    ) {
        if let Some(picked) = picked {
            mutate_request(head, &picked.request, context);
            if let Some(host) = &picked.host_rewrite {
                rewrite::set_host(&mut head.uri, &mut head.headers, host.clone());
            }
        }
        for level in self.levels() {
            mutate_request(head, &level.request, context);
        }
        let Action::Forward(forward) = &self.route.action else { return };
        self.rewrite_host(head, forward, keeps_originals);
        self.rewrite_path(head, forward, context, keeps_originals);
    }

    /// Whether there is anything to change of a request.
    pub fn changes_request(&self, picked: Option<&WeightedCluster>) -> bool {
        let of_cluster =
            |picked: &WeightedCluster| !picked.request.is_empty() || picked.host_rewrite.is_some();
        let of_forward = match &self.route.action {
            Action::Forward(forward) => {
                forward.host_rewrite.is_some() || forward.path_rewrite.is_some()
            }
            Action::Redirect(_) | Action::Direct(_) => false,
        };
        of_forward
            || picked.is_some_and(of_cluster)
            || self.levels().iter().any(|level| !level.request.is_empty())
    }

    /// Whether there is anything to change of a response.
    pub fn changes_response(&self, picked: Option<&WeightedCluster>) -> bool {
        picked.is_some_and(|picked| !picked.response.is_empty())
            || self.levels().iter().any(|level| !level.response.is_empty())
    }

    fn rewrite_host(&self, head: &mut Parts, forward: &Forward, keeps_originals: bool) {
        let Some(rewrite) = &forward.host_rewrite else { return };
        let host = rewrite.host(path_of(&head.uri), &head.headers).map(Cow::into_owned);
        if let Some(host) = host {
            replace_host(head, forward, host, keeps_originals);
        }
    }

    fn rewrite_path(
        &self,
        head: &mut Parts,
        forward: &Forward,
        context: &Context<'_>,
        keeps_originals: bool,
    ) {
        let Some(rewrite) = &forward.path_rewrite else { return };
        let path = path_of(&head.uri);
        let context = Context {
            request_headers: Some(&head.headers),
            method: Some(&head.method),
            path,
            ..*context
        };
        let Some(new) = rewrite.apply(path, self.matched, &context) else { return };
        if keeps_originals {
            let old = path.to_owned();
            rewrite::keep_path(&mut head.headers, &old);
        }
        rewrite::set_path(&mut head.uri, &new);
    }

    /// Sets the host of the endpoint that was chosen, where the route asks for it
    /// (`auto_host_rewrite`).
    pub fn rewrite_host_to(&self, head: &mut Parts, host: &HeaderValue, keeps_originals: bool) {
        if let Action::Forward(forward) = &self.route.action
            && matches!(forward.host_rewrite, Some(rewrite::HostRewrite::Auto))
        {
            replace_host(head, forward, host.clone(), keeps_originals);
        }
    }

    /// Changes a response on its way to the client, an upstream's or our own.
    pub fn mutate_response(
        &self,
        headers: &mut HeaderMap,
        picked: Option<&WeightedCluster>,
        context: &Context<'_>,
    ) {
        if let Some(picked) = picked {
            picked.response.apply(headers, Side::Response, context);
        }
        for level in self.levels() {
            level.response.apply(headers, Side::Response, context);
        }
    }

    /// The changes of all levels in the order they are applied; the last one wins. A weighted
    /// cluster's come before all of them.
    fn levels(&self) -> [&Mutations; 3] {
        let (route, virtual_host, table) =
            (&self.route.mutations, &self.virtual_host.mutations, &self.table.frame.mutations);
        match self.table.frame.most_specific_wins {
            true => [table, virtual_host, route],
            false => [route, virtual_host, table],
        }
    }
}

/// Changes the headers of a request; templates see it as it is.
fn mutate_request(head: &mut Parts, mutations: &HeaderMutations, context: &Context<'_>) {
    if mutations.is_empty() {
        return;
    }
    let host = rewrite::host_of(&head.uri, &head.headers);
    let context = Context {
        method: Some(&head.method),
        path: path_of(&head.uri),
        host: host.as_ref().and_then(|host| host.to_str().ok()).unwrap_or(context.host),
        ..*context
    };
    mutations.apply(&mut head.headers, Side::Request, &context);
}

fn path_of(uri: &Uri) -> &str {
    uri.path_and_query().map_or("/", |path| path.as_str())
}

fn replace_host(head: &mut Parts, forward: &Forward, host: HeaderValue, keeps_originals: bool) {
    if let Some(old) = rewrite::host_of(&head.uri, &head.headers) {
        if forward.append_x_forwarded_host {
            rewrite::append_forwarded_host(&mut head.headers, &old);
        }
        if keeps_originals {
            rewrite::keep_host(&mut head.headers, &old);
        }
    }
    rewrite::set_host(&mut head.uri, &mut head.headers, host);
}
