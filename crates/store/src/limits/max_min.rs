//! Weighted max-min fairness.

/// The result of [`water_line`].
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct WaterLine {
    /// The rate that a unit of weight gets at most; infinite if all demands are met.
    pub level: f64,
    /// The sum of all weights.
    pub weight: f64,
    /// The sum of all parts.
    pub allotted: f64,
}

impl WaterLine {
    /// A tenant's part.
    pub fn part(&self, asked: f64, weight: f64) -> f64 {
        asked.min(self.level * weight)
    }
}

/// Divides `whole` among demands, given as a rate and its weight: each is met, or gets as much for a unit of weight as
/// every other that is not met.
///
/// ```
/// let line = gatepay_store::limits::water_line(100.0, &[(10.0, 1.0), (1_000.0, 1.0), (1_000.0, 2.0)]);
/// assert_eq!([(10.0, 1.0), (1_000.0, 1.0), (1_000.0, 2.0)].map(|(asked, weight)| line.part(asked, weight)), [10.0, 30.0, 60.0]);
/// ```
pub fn water_line(whole: f64, demands: &[(f64, f64)]) -> WaterLine {
    let mut line: Vec<(f64, f64)> = demands.to_vec();
    line.sort_by(|one, other| (one.0 / one.1).total_cmp(&(other.0 / other.1)));
    let weight: f64 = line.iter().map(|it| it.1).sum();
    let (mut asked_below, mut weight_below) = (0.0, 0.0);
    let mut level = f64::INFINITY;
    for (asked, own) in &line {
        let here = (whole - asked_below) / (weight - weight_below);
        if here <= asked / own {
            level = here;
            break;
        }
        asked_below += asked;
        weight_below += own;
    }
    let allotted = line.iter().map(|(asked, own)| asked.min(level * own)).sum();
    WaterLine {
        level,
        weight,
        allotted,
    }
}
