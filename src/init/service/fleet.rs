//! All services together: what is to be done next, and for which. Pure.

use std::time::Duration;

use super::{Act, Definition, Life, may_start, may_stop};

/// One of them.
pub(in crate::init) trait Member {
    /// What it is.
    fn definition(&self) -> &Definition;
    /// How far it is.
    fn life(&self) -> &Life;
    /// The same, to be told of what happens.
    fn life_mut(&mut self) -> &mut Life;
}

/// The next thing that is due, and for which of them; the first one is the agent. To be asked again after each, for what becomes of one may be
/// what another waits for, be it before it in the list.
pub(in crate::init) fn due(fleet: &mut [impl Member], now: Duration, ending: bool) -> Option<(usize, Act)> {
    (0..fleet.len()).find_map(|index| {
        let (start, stop) = (!ending && can_start(fleet, index), can_stop(fleet, index, ending));
        let act = fleet[index].life_mut().due(now, start, stop)?;
        Some((index, act))
    })
}

fn can_start(fleet: &[impl Member], index: usize) -> bool {
    may_start(fleet[index].definition(), |name| life(fleet, name).is_none_or(Life::settled))
}

fn can_stop(fleet: &[impl Member], index: usize, ending: bool) -> bool {
    // All others come after the agent. When the VM ends it ends with what it runs, after the last service.
    if index == 0 {
        return !ending;
    }
    let definitions = fleet.iter().map(Member::definition);
    // Nobody waits for one that runs on, and that nobody has told to end.
    let is_on_its_way = |name: &str| life(fleet, name).is_some_and(Life::is_stopping);
    may_stop(&fleet[index].definition().name, definitions, is_on_its_way)
}

fn life<'a>(fleet: &'a [impl Member], name: &str) -> Option<&'a Life> {
    fleet.iter().find(|member| member.definition().name == name).map(Member::life)
}

/// The longest that it takes for these services to end in order, each with all of its grace.
pub(in crate::init) fn stop_time<'a>(services: impl Iterator<Item = &'a Definition>) -> Duration {
    let services: Vec<_> = services.collect();
    let mut ends = vec![Duration::ZERO; services.len()];
    // A round for each link of the longest chain: there are no more than services, and far more ways through them.
    for _ in 0..services.len() {
        let end = |service: &&Definition| {
            let before = services.iter().zip(&ends).filter(|(other, _)| other.after.contains(&service.name));
            before.map(|(_, end)| *end).max().unwrap_or_default() + service.grace
        };
        let next: Vec<_> = services.iter().map(end).collect();
        if std::mem::replace(&mut ends, next.clone()) == next {
            break;
        }
    }
    ends.into_iter().max().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        api::ServiceState,
        init::service::{AGENT, Ended, Policy, Restart},
    };

    const AT_FIRST: Duration = Duration::from_secs(1);

    struct Plain(Definition, Life);

    impl Member for Plain {
        fn definition(&self) -> &Definition {
            &self.0
        }

        fn life(&self) -> &Life {
            &self.1
        }

        fn life_mut(&mut self) -> &mut Life {
            &mut self.1
        }
    }

    fn member(name: &str, after: &[&str]) -> Plain {
        let mut definition = Definition::parse("x", "command = [\"x\"]\nstop_grace_ms = 10000").unwrap();
        definition.name = name.to_owned();
        definition.after = after.iter().map(|name| (*name).to_owned()).collect();
        let policy = Policy {
            restart: Restart::Never,
            pause: definition.pause,
            grace: definition.grace,
            ready_time: definition.ready_time,
            one_shot: false,
            at_once: 0,
        };
        let life = Life::new(policy, true, AT_FIRST);
        Plain(definition, life)
    }

    fn acts(fleet: &mut [Plain], ending: bool) -> Vec<(usize, Act)> {
        let mut acts = Vec::new();
        while let Some((index, act)) = due(fleet, AT_FIRST, ending) {
            if act == Act::Spawn {
                fleet[index].1.spawned(AT_FIRST);
            }
            acts.push((index, act));
        }
        acts
    }

    fn running(fleet: &mut [Plain]) {
        for Plain(_, life) in fleet {
            life.spawned(AT_FIRST);
            life.ready(AT_FIRST);
        }
    }

    #[test]
    fn one_that_waits_is_started_in_the_turn_in_which_the_other_is_ready_wherever_it_is_in_the_list() {
        let mut fleet = [member(AGENT, &[]), member("app", &["db"]), member("db", &[])];
        assert_eq!(acts(&mut fleet, false), [(0, Act::Spawn), (2, Act::Spawn)]);
        fleet[2].1.ready(AT_FIRST);
        assert_eq!(acts(&mut fleet, false), [(1, Act::Spawn)]);
    }

    #[test]
    fn one_that_waits_is_started_in_the_turn_in_which_the_other_cannot_be() {
        let mut fleet = [member(AGENT, &[]), member("app", &["db"]), member("db", &[])];
        assert_eq!(due(&mut fleet, AT_FIRST, false), Some((0, Act::Spawn)));
        fleet[0].1.spawned(AT_FIRST);
        assert_eq!(due(&mut fleet, AT_FIRST, false), Some((2, Act::Spawn)));
        fleet[2].1.not_spawned("no such user".to_owned(), AT_FIRST);
        assert_eq!(fleet[2].1.state(), ServiceState::Failed);
        assert_eq!(due(&mut fleet, AT_FIRST, false), Some((1, Act::Spawn)));
    }

    #[test]
    fn a_service_is_stopped_though_others_that_come_after_it_run_on() {
        let mut fleet = [member(AGENT, &[]), member("sshd", &[]), member("web", &["sshd"])];
        running(&mut fleet);
        fleet[1].1.stop(true, AT_FIRST);
        assert_eq!(acts(&mut fleet, false), [(1, Act::Signal)]);
    }

    #[test]
    fn services_that_are_stopped_together_end_in_the_reverse_order_and_the_agent_is_let_be() {
        let mut fleet = [member(AGENT, &[]), member("sshd", &[]), member("web", &["sshd"])];
        running(&mut fleet);
        for Plain(_, life) in &mut fleet {
            life.stop(false, AT_FIRST);
        }
        assert_eq!(acts(&mut fleet, true), [(2, Act::Signal)]);
        fleet[2].1.ended(Ended { well: true, how: "exit status 0".to_owned() }, None, AT_FIRST);
        assert_eq!(acts(&mut fleet, true), [(1, Act::Signal)]);
    }

    #[test]
    fn the_time_to_stop_is_that_of_the_longest_chain() {
        let services = [member("db", &[]), member("app", &["db"]), member("web", &["app", "db"]), member("x", &[])];
        let longest = |services: &[Plain]| stop_time(services.iter().map(|Plain(definition, _)| definition));
        assert_eq!(longest(&services), Duration::from_secs(30));
        assert_eq!(longest(&services[3..]), Duration::from_secs(10));
        assert_eq!(longest(&[]), Duration::ZERO);
        // Of which there are 2^63 chains.
        let names: Vec<_> = (0..64).map(|number| number.to_string()).collect();
        let names: Vec<_> = names.iter().map(String::as_str).collect();
        let all: Vec<_> = names.iter().enumerate().map(|(index, name)| member(name, &names[..index])).collect();
        assert_eq!(longest(&all), Duration::from_secs(640));
    }
}
