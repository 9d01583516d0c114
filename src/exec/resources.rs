//! What a command may take, and what it took. Pure but for reading the cgroup of one that is over.
//!
//! A bound that cannot be kept is refused before anything runs: a command that believes itself bounded and is not is worse than
//! none. What was used is told as far as it is known; nothing is estimated.

use super::error::ExecError;
use crate::api::{ExecLimits, ExecUsage};
use crate::sys::cgroup::{Bound, Cgroup, Controller, Controllers, Usage};

/// Bounds of cpu.weight (cgroup-v2.rst).
const CPU_WEIGHT: std::ops::RangeInclusive<u64> = 1..=10_000;

/// The bounds that a request asks for, in what the kernel takes.
///
/// # Errors
/// A value that stands for nothing.
pub(super) fn bounds(limits: &ExecLimits) -> Result<Vec<Bound>, ExecError> {
    let bad = |field, why| Err(ExecError::BadLimit { field, why });
    if limits.memory_bytes == Some(0) {
        return bad("memory_bytes", "no program runs in 0 bytes; leave it out for no limit");
    }
    if limits.pids == Some(0) {
        return bad("pids", "the command itself is one; leave it out for no limit");
    }
    if limits.cpu_weight.is_some_and(|weight| !CPU_WEIGHT.contains(&weight)) {
        return bad("cpu_weight", "it goes from 1 to 10000, and 100 is usual");
    }
    let bounds =
        [limits.memory_bytes.map(Bound::Memory), limits.pids.map(Bound::Pids), limits.cpu_weight.map(Bound::CpuWeight)];
    Ok(bounds.into_iter().flatten().collect())
}

/// Sets bounds on the cgroup of a command that is not running yet.
///
/// # Errors
/// There is no cgroup, or none with that controller, or the kernel refuses the value.
pub(super) fn impose(bounds: &[Bound], cgroup: Option<&Cgroup>, have: Controllers) -> Result<(), ExecError> {
    for &bound in bounds {
        let (field, controller) = named(bound);
        let unsupported = || ExecError::LimitsUnsupported { field, controller: controller.name() };
        let cgroup = cgroup.filter(|_| have.has(controller)).ok_or_else(unsupported)?;
        cgroup.bound(bound).map_err(|source| ExecError::LimitRefused { field, source })?;
    }
    Ok(())
}

fn named(bound: Bound) -> (&'static str, Controller) {
    match bound {
        Bound::Memory(_) => ("memory_bytes", Controller::Memory),
        Bound::Pids(_) => ("pids", Controller::Pids),
        Bound::CpuWeight(_) => ("cpu_weight", Controller::Cpu),
    }
}

/// What a command and all that it started took.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Spent {
    pub(super) usage: ExecUsage,
    pub(super) oom_killed: bool,
}

impl From<Usage> for Spent {
    fn from(usage: Usage) -> Self {
        let Usage { cpu_time_us, memory_peak_bytes, oom_kills } = usage;
        Self { usage: ExecUsage { cpu_time_us, memory_peak_bytes }, oom_killed: oom_kills > 0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::ErrorCode;

    const LIMITS: ExecLimits = ExecLimits { memory_bytes: Some(1 << 20), pids: Some(8), cpu_weight: Some(50) };

    #[test]
    fn each_limit_is_a_bound_of_the_kernel() {
        let expected = [Bound::Memory(1 << 20), Bound::Pids(8), Bound::CpuWeight(50)];
        assert_eq!(bounds(&LIMITS).unwrap(), expected);
        assert!(bounds(&ExecLimits::default()).unwrap().is_empty());
    }

    #[test]
    fn a_limit_that_stands_for_nothing_is_refused_by_its_name() {
        for (limits, field) in [
            (ExecLimits { memory_bytes: Some(0), ..LIMITS }, "limits.memory_bytes"),
            (ExecLimits { pids: Some(0), ..LIMITS }, "limits.pids"),
            (ExecLimits { cpu_weight: Some(0), ..LIMITS }, "limits.cpu_weight"),
            (ExecLimits { cpu_weight: Some(10_001), ..LIMITS }, "limits.cpu_weight"),
        ] {
            let error = bounds(&limits).unwrap_err();
            assert_eq!(error.code(), ErrorCode::InvalidField);
            assert!(error.to_string().contains(field), "{error}");
        }
    }

    #[test]
    fn a_limit_without_its_controller_is_refused_and_the_controller_named() {
        let none = Controllers::default();
        for (bound, controller) in
            [(Bound::Memory(1), "memory"), (Bound::Pids(1), "pids"), (Bound::CpuWeight(1), "cpu")]
        {
            let error = impose(&[bound], None, none).unwrap_err();
            assert_eq!(error.code(), ErrorCode::LimitsUnsupported);
            assert!(error.to_string().contains(&format!("controller {controller},")), "{error}");
        }
        assert!(impose(&[], None, none).is_ok());
    }

    #[test]
    fn one_kill_for_want_of_memory_is_enough_to_tell() {
        assert!(Spent::from(Usage { oom_kills: 2, ..Usage::default() }).oom_killed);
        assert!(!Spent::from(Usage::default()).oom_killed);
    }
}
