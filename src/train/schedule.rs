//! The learning rate of each step.

use serde::{Deserialize, Serialize};

use super::config::{ScheduleKind, Settings};

/// Learning rate as a function of the step. Its length comes from the epochs alone, never from `max_steps`: a run that was
/// stopped and resumed sees the same rates as one that was not.
#[derive(Clone, Debug)]
pub struct Schedule {
    kind: ScheduleKind,
    lr: f64,
    min_lr: f64,
    factor: f64,
    /// Steps of linear warm-up.
    warmup: f64,
    /// Steps between two drops.
    every: f64,
    /// Steps of the whole run.
    total: f64,
}

impl Schedule {
    /// The schedule of a run with `steps_per_epoch` steps an epoch.
    pub fn new(settings: &Settings, steps_per_epoch: u64) -> Schedule {
        let steps = |epochs: f64| epochs * steps_per_epoch as f64;
        Schedule {
            kind: settings.schedule,
            lr: settings.lr,
            min_lr: settings.min_lr,
            factor: settings.lr_factor,
            warmup: steps(settings.warmup_epochs).round(),
            every: steps(settings.step_epochs).round().max(1.0),
            total: steps(settings.epochs as f64),
        }
    }

    /// Learning rate of `step` (from 1) after `drops` drops of [`Plateau`].
    pub fn lr(&self, step: u64, drops: u32) -> f64 {
        let done = step.saturating_sub(1) as f64;
        if done < self.warmup {
            return self.lr * (done + 1.0) / self.warmup;
        }
        match self.kind {
            ScheduleKind::Constant => self.lr,
            ScheduleKind::Cosine => {
                let t = ((done - self.warmup) / (self.total - self.warmup).max(1.0)).min(1.0);
                self.min_lr + (self.lr - self.min_lr) * 0.5 * (1.0 + (std::f64::consts::PI * t).cos())
            }
            ScheduleKind::Step => self.lr * self.factor.powi((done / self.every) as i32),
            ScheduleKind::Plateau => (self.lr * self.factor.powi(drops as i32)).max(self.min_lr),
        }
    }
}

/// State of the `plateau` schedule: watches the validation error (1 - top-1) at each epoch's end.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Plateau {
    /// Whether the network has told classes apart: before, nothing is learnt that could stop to be.
    #[serde(default = "yes")]
    pub begun: bool,
    /// Smallest error so far.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub best: Option<f64>,
    /// Epochs since then, or since the last drop.
    pub waited: usize,
    /// Drops so far.
    pub drops: u32,
}

/// For what older versions saved.
fn yes() -> bool {
    true
}

impl Plateau {
    /// Takes in an epoch's error, and whether it [tells classes apart](super::metrics::ByClass::tells_apart); after `patience` epochs
    /// without a smaller one the learning rate drops.
    pub fn observe(&mut self, error: f64, tells_apart: bool, patience: usize) {
        self.begun |= tells_apart;
        if self.best.is_none_or(|best| error < best) {
            self.best = Some(error);
            self.waited = 0;
            return;
        }
        if !self.begun {
            return;
        }
        self.waited += 1;
        if self.waited >= patience.max(1) {
            self.waited = 0;
            self.drops += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn schedule(text: &str) -> Schedule {
        let mut table: toml::Table = "lr = 1.0\nmin_lr = 0.0\nepochs = 10\nwarmup_epochs = 0.0".parse().unwrap();
        table.extend(text.parse::<toml::Table>().unwrap());
        Schedule::new(&Settings::merge([table]).unwrap(), 10)
    }

    #[test]
    fn constant() {
        let s = schedule("schedule = 'constant'");
        assert_eq!([s.lr(1, 0), s.lr(1000, 5)], [1.0, 1.0]);
    }

    #[test]
    fn warm_up_is_linear_and_reaches_the_rate_at_its_last_step() {
        let s = schedule("schedule = 'constant'\nwarmup_epochs = 1.0");
        assert_eq!([s.lr(1, 0), s.lr(5, 0), s.lr(10, 0), s.lr(11, 0)], [0.1, 0.5, 1.0, 1.0]);
    }

    #[test]
    fn cosine_starts_at_lr_halves_in_the_middle_and_ends_at_min_lr() {
        let s = schedule("schedule = 'cosine'\nmin_lr = 0.2");
        assert_eq!(s.lr(1, 0), 1.0);
        assert!((s.lr(51, 0) - 0.6).abs() < 1e-12);
        assert!(s.lr(100, 0) > 0.2 && s.lr(100, 0) < 0.21);
        assert_eq!(s.lr(500, 0), 0.2);
    }

    #[test]
    fn cosine_does_not_depend_on_max_steps() {
        let short = schedule("schedule = 'cosine'\nmax_steps = 60");
        let long = schedule("schedule = 'cosine'\nmax_steps = 100");
        assert!((1..=100).all(|step| short.lr(step, 0) == long.lr(step, 0)));
    }

    #[test]
    fn step_drops_each_period() {
        let s = schedule("schedule = 'step'\nstep_epochs = 3.0\nlr_factor = 0.5");
        assert_eq!([s.lr(30, 0), s.lr(31, 0), s.lr(60, 0), s.lr(61, 0)], [1.0, 0.5, 0.5, 0.25]);
    }

    #[test]
    fn plateau_drops_after_patience_and_not_below_the_minimum() {
        let s = schedule("schedule = 'plateau'\nlr_factor = 0.1\nmin_lr = 0.005");
        assert_eq!(s.lr(1, 0), 1.0);
        assert!((s.lr(1, 2) - 0.01).abs() < 1e-12);
        assert_eq!(s.lr(1, 3), 0.005);
        let mut plateau = Plateau::default();
        for (error, drops) in [(0.5, 0), (0.4, 0), (0.4, 0), (0.45, 1), (0.4, 1), (0.41, 2), (0.1, 2), (0.2, 2)] {
            plateau.observe(error, true, 2);
            assert_eq!(plateau.drops, drops, "after {error}");
        }
    }

    /// The network that names one class for all has not begun to learn, so that it has not stopped.
    #[test]
    fn a_plateau_comes_after_a_descent() {
        let mut plateau = Plateau::default();
        for (error, drops) in [(0.6, 0), (0.5, 0), (0.5, 0), (0.5, 0), (0.5, 0), (0.4, 0), (0.5, 0), (0.4, 1)] {
            plateau.observe(error, error < 0.45, 2);
            assert_eq!(plateau.drops, drops, "after {error}");
        }
    }
}
