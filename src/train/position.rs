//! Where a run stands, beside its tensors: with them, enough to go on to the bit.

use serde::{Deserialize, Serialize};

use super::Job;
use super::config::Settings;
use super::metrics::Tally;
use super::schedule::Plateau;
use crate::error::{Error, Result, one_line};
use crate::formats::Checkpoint;

/// Settings that may change when a run is resumed: how far it goes, where it runs, where its pictures are now.
pub const FREE: [&str; 7] = ["epochs", "max_steps", "patience", "workers", "adapter", "dir", "val"];

/// Name of the metadata entry of `last.safetensors`.
const KEY: &str = "position";

/// The state of a run that is not in a tensor.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Position {
    /// Training pictures: with another number the steps would be other ones.
    pub pictures: usize,
    /// Steps done.
    pub step: u64,
    /// Epochs whose end (evaluation, checkpoint) is done too.
    pub epochs: usize,
    /// Epochs since the best one.
    pub since_best: usize,
    /// The best epoch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub best: Option<Best>,
    /// State of the `plateau` schedule.
    pub plateau: Plateau,
    /// Sums over the running epoch's steps.
    pub tally: Tally,
    /// The run's settings but those of [`FREE`]; `config.toml` says the same, but may have been edited.
    pub settings: toml::Table,
}

/// The epoch with the best validation top-1; of equals the first.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Best {
    /// From 1.
    pub epoch: usize,
    /// In [0, 1].
    pub top1: f64,
}

impl Position {
    /// Before the first step.
    pub fn start(settings: &Settings, pictures: usize) -> Result<Position> {
        let mut settings = settings.table()?;
        settings.retain(|key, _| !FREE.contains(&key));
        Ok(Position {
            settings,
            pictures,
            step: 0,
            epochs: 0,
            since_best: 0,
            best: None,
            plateau: Plateau::default(),
            tally: Tally::default(),
        })
    }

    /// Whether `job` can go on from here.
    ///
    /// # Errors
    /// When its pictures or settings are not those that led here: its steps would be other ones.
    pub fn check(&self, job: &Job) -> Result<()> {
        let pictures = job.dataset.train.len();
        if self.pictures != pictures {
            let message =
                format!("the run to resume had {} training pictures, now there are {pictures}", self.pictures);
            return Err(Error::input(message));
        }
        let then = Settings::merge([self.settings.clone()])?;
        match job.settings.first_difference(&then, &FREE)? {
            Some(key) => Err(Error::input(format!(
                "the run to resume was not made with the {key} that its config.toml has now: put back what was there"
            ))),
            None => Ok(()),
        }
    }

    /// Takes in an epoch's validation top-1; returns whether it is the best so far.
    pub fn observe(&mut self, epoch: usize, top1: f64, lr_patience: usize) -> bool {
        self.plateau.observe(1.0 - top1, lr_patience);
        let better = self.best.as_ref().is_none_or(|best| top1 > best.top1);
        if better {
            self.best = Some(Best { epoch, top1 });
            self.since_best = 0;
        } else {
            self.since_best += 1;
        }
        better
    }

    /// Writes the position into a checkpoint's metadata: as TOML, which keeps every f64 to the bit.
    pub fn store(&self, checkpoint: &mut Checkpoint) -> Result<()> {
        let text = toml::to_string(self).map_err(|e| Error::input(format!("the run's position: {e}")))?;
        checkpoint.extra.insert(KEY.into(), text);
        Ok(())
    }

    /// Reads the position from a checkpoint's metadata.
    ///
    /// # Errors
    /// When it is not a checkpoint to resume from.
    pub fn restore(checkpoint: &Checkpoint) -> Result<Position> {
        let text = checkpoint.extra.get(KEY).ok_or_else(|| {
            Error::input("the checkpoint does not say where its run stood: resume from a run's last.safetensors")
        })?;
        toml::from_str(text).map_err(|e| Error::input(format!("the run's position: {}", one_line(&e))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn start(pictures: usize) -> Position {
        Position::start(&Settings::merge([]).unwrap(), pictures).unwrap()
    }

    #[test]
    fn best_is_the_first_of_equals() {
        let mut position = start(10);
        assert!(position.observe(1, 0.5, 1));
        assert!(!position.observe(2, 0.5, 1));
        assert_eq!((position.since_best, position.plateau.drops), (1, 1));
        assert!(position.observe(3, 0.75, 1));
        assert_eq!(position.best, Some(Best { epoch: 3, top1: 0.75 }));
    }

    #[test]
    fn round_trips_to_the_bit() {
        let mut position = start(1801);
        position.tally = Tally { n: 3, loss: 0.1 + 0.2, top1: 1, top5: 3 };
        position.observe(1, 1.0 / 3.0, 5);
        let text = toml::to_string(&position).unwrap();
        assert_eq!(toml::from_str::<Position>(&text).unwrap(), position);
    }
}
