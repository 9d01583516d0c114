//! In which order services start, and stop. Pure.

use super::{AGENT, Definition};

/// Services sorted by name, with those that none can wait for taken out of each `after`; and what is wrong, by name. The agent is there always.
///
/// A service that waits for one that is not there, or for itself by way of others, is started all the same.
pub(in crate::init) fn sorted(mut services: Vec<Definition>) -> (Vec<Definition>, Vec<(String, String)>) {
    services.sort_by(|a, b| a.name.cmp(&b.name));
    services.dedup_by(|a, b| a.name == b.name);
    let names: Vec<String> = services.iter().map(|service| service.name.clone()).collect();
    let mut problems = Vec::new();
    for service in &mut services {
        let is_there = |name: &String| name == AGENT || names.contains(name);
        let (known, unknown): (Vec<_>, Vec<_>) = service.after.drain(..).partition(is_there);
        service.after = known;
        problems.extend(unknown.into_iter().map(|name| {
            (service.name.clone(), format!("it comes after `{name}`, which is no service; it is started without"))
        }));
    }
    for index in 0..services.len() {
        while let Some(cause) = circle(&services, index) {
            let name = &services[index].name;
            problems.push((
                name.clone(),
                format!("it comes after `{cause}`, which waits for `{name}` in turn; it is started without"),
            ));
            services[index].after.retain(|name| *name != cause);
        }
    }
    (services, problems)
}

/// One that a service waits for and that waits for the service, be it by way of others.
fn circle(services: &[Definition], index: usize) -> Option<String> {
    let find = |name: &String| services.iter().position(|service| service.name == *name);
    let leads_back = |first: usize| {
        let (mut seen, mut next) = (vec![false; services.len()], vec![first]);
        while let Some(at) = next.pop() {
            if at == index {
                return true;
            }
            if !std::mem::replace(&mut seen[at], true) {
                next.extend(services[at].after.iter().filter_map(find));
            }
        }
        false
    };
    services[index].after.iter().find(|name| find(name).is_some_and(leads_back)).cloned()
}

/// May this one start now? `settled` is of those that are ready, or will not become so.
pub(in crate::init) fn may_start(service: &Definition, settled: impl Fn(&str) -> bool) -> bool {
    service.after.iter().all(|name| settled(name))
}

/// May this one be stopped now? Only when none that comes after it is still on its way out (`ends`): the reverse of their start.
pub(in crate::init) fn may_stop<'a>(
    name: &str,
    services: impl IntoIterator<Item = &'a Definition>,
    ends: impl Fn(&str) -> bool,
) -> bool {
    !services.into_iter().any(|other| other.after.iter().any(|after| after == name) && ends(&other.name))
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use proptest::prelude::*;

    use super::*;

    fn service(name: &str, after: &[&str]) -> Definition {
        let mut service = Definition::parse(name, "command = [\"x\"]").unwrap();
        service.after = after.iter().map(|name| (*name).to_owned()).collect();
        service
    }

    #[test]
    fn a_service_waits_for_those_that_it_comes_after_and_they_stop_after_it() {
        let (services, problems) =
            sorted(vec![service("web", &["db", "cache"]), service("db", &[]), service("cache", &[])]);
        assert_eq!(problems, []);
        let web = services.iter().find(|service| service.name == "web").unwrap();
        assert!(!may_start(web, |name| name == "db"));
        assert!(may_start(web, |name| name == "db" || name == "cache"));
        assert!(!may_stop("db", &services, |name| name == "web"));
        assert!(may_stop("db", &services, |_| false));
        assert!(may_stop("web", &services, |_| true));
    }

    #[test]
    fn a_service_can_wait_for_the_agent() {
        let (services, problems) = sorted(vec![service("sshd", &[AGENT])]);
        assert_eq!(problems, []);
        assert!(!may_start(&services[0], |_| false));
        assert!(may_start(&services[0], |name| name == AGENT));
    }

    #[test]
    fn one_that_is_not_there_is_named_and_not_waited_for() {
        let (services, problems) = sorted(vec![service("web", &["db"])]);
        assert!(may_start(&services[0], |_| false));
        assert_eq!(problems[0].0, "web");
        assert!(problems[0].1.contains("`db`, which is no service"));
    }

    #[test]
    fn a_circle_is_named_and_cut_in_one_place() {
        let (services, problems) = sorted(vec![service("a", &["b"]), service("b", &["c"]), service("c", &["a"])]);
        assert_eq!(problems.len(), 1);
        assert!(problems[0].1.contains("`b`, which waits for `a` in turn"), "{problems:?}");
        assert_eq!(services.iter().filter(|service| service.after.is_empty()).count(), 1);
        assert_eq!(sorted(vec![service("a", &["a"])]).1.len(), 1);
    }

    proptest! {
        #[test]
        fn whatever_waits_for_whatever_all_are_started(edges in prop::collection::vec((0..6_usize, 0..6_usize), 0..20)) {
            let names = ["a", "b", "c", "d", "e", "f"];
            let all = names.iter().enumerate().map(|(index, name)| {
                let after: Vec<_> = edges.iter().filter(|(from, _)| *from == index).map(|(_, to)| names[*to]).collect();
                service(name, &after)
            });
            let (services, _) = sorted(all.collect());
            let mut started = HashSet::new();
            while started.len() < services.len() {
                let before = started.len();
                for service in &services {
                    if may_start(service, |name| started.contains(name)) {
                        started.insert(service.name.as_str());
                    }
                }
                prop_assert!(started.len() > before, "none may start after {started:?}");
            }
        }
    }
}
