//! The level from which on the program's log is written. It can be changed while the program runs.

use tracing::level_filters::LevelFilter;
use tracing_subscriber::{Registry, reload};

/// The layer that drops events below the level.
pub type LogLevelLayer = reload::Layer<LevelFilter, Registry>;

/// The level of the program's log.
#[derive(Clone)]
pub struct LogLevel(reload::Handle<LevelFilter, Registry>);

/// The levels from the fewest lines to the most.
const LEVELS: [LevelFilter; 5] = [
    LevelFilter::ERROR,
    LevelFilter::WARN,
    LevelFilter::INFO,
    LevelFilter::DEBUG,
    LevelFilter::TRACE,
];

impl LogLevel {
    /// A layer with this level, and its control.
    pub fn starting_at(level: LevelFilter) -> (LogLevelLayer, Self) {
        let (layer, handle) = reload::Layer::new(level);
        (layer, Self(handle))
    }

    /// A level by its name in the log.
    pub fn parse(name: &str) -> Result<LevelFilter, &'static str> {
        let level = LEVELS.into_iter().find(|level| level.to_string() == name);
        level.ok_or("is no level of the log: use error, warn, info, debug or trace")
    }

    /// The level in force, as written in the log.
    pub fn name(&self) -> String {
        self.level().to_string()
    }

    /// Writes lines of this level and of those that are more severe, and notes the change in the log.
    pub fn set(&self, level: LevelFilter) {
        let before = self.level();
        let note = || tracing::info!(from = %before, to = %level, "the log's level changes");
        // The line is written while the more talkative level is in force.
        if level < before {
            note();
        }
        // It fails only if the log has ended.
        let _ = self.0.reload(level);
        if level > before {
            note();
        }
    }

    /// The next level with more lines; the most talkative one stays.
    pub fn more(&self) {
        self.step(|at| (at + 1).min(LEVELS.len() - 1));
    }

    /// The next level with fewer lines; errors are always written.
    pub fn fewer(&self) {
        self.step(|at| at.saturating_sub(1));
    }

    fn step(&self, next: impl FnOnce(usize) -> usize) {
        let level = self.level();
        let at = LEVELS.iter().position(|known| *known == level);
        self.set(LEVELS[next(at.unwrap_or_default())]);
    }

    fn level(&self) -> LevelFilter {
        self.0.clone_current().unwrap_or(LevelFilter::INFO)
    }
}

#[cfg(test)]
mod tests {
    use tracing_subscriber::layer::SubscriberExt as _;

    use super::*;

    #[test]
    fn steps_go_through_the_five_levels_and_stop_at_both_ends() {
        let (layer, level) = LogLevel::starting_at(LevelFilter::WARN);
        let log = tracing_subscriber::registry().with(layer);
        tracing::subscriber::with_default(log, || {
            let mut names = vec![level.name()];
            for step in [LogLevel::fewer, LogLevel::fewer] {
                step(&level);
                names.push(level.name());
            }
            for _ in 0..5 {
                level.more();
                names.push(level.name());
            }
            assert_eq!(
                names,
                [
                    "warn", "error", "error", "warn", "info", "debug", "trace", "trace"
                ]
            );
            assert!(tracing::enabled!(tracing::Level::TRACE));
            level.set(LevelFilter::INFO);
            assert!(!tracing::enabled!(tracing::Level::DEBUG));
        });
    }

    #[test]
    fn a_level_is_one_of_five_names_in_lower_case() {
        assert_eq!(LogLevel::parse("debug"), Ok(LevelFilter::DEBUG));
        for wrong in ["", "DEBUG", "off", "verbose", "3", "info,h2=trace"] {
            assert!(LogLevel::parse(wrong).is_err(), "{wrong}");
        }
    }
}
