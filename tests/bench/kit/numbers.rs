//! Numbers out of samples.

use serde::Serialize;

/// The middle one.
pub(crate) fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

/// Where half and almost all of the samples are.
#[derive(Debug, Clone, Copy, Serialize)]
pub(crate) struct Spread {
    /// Half are below.
    pub(crate) p50: f64,
    /// All but one of a hundred are below.
    pub(crate) p99: f64,
}

impl Spread {
    /// Of these.
    pub(crate) fn of(mut values: Vec<f64>) -> Self {
        values.sort_by(f64::total_cmp);
        let at = |share: f64| values.get((values.len() as f64 * share) as usize).copied().unwrap_or(f64::NAN);
        Self { p50: at(0.5), p99: at(0.99) }
    }

    /// The medians of several rounds.
    pub(crate) fn median(rounds: &[Self]) -> Self {
        let middle = |of: fn(&Self) -> f64| median(rounds.iter().map(of).collect());
        Self { p50: middle(|round| round.p50), p99: middle(|round| round.p99) }
    }
}
