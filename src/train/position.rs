//! Where a run stands, beside its tensors: with them, enough to go on to the bit.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::Job;
use super::config::Settings;
use super::metrics::Tally;
use super::schedule::Plateau;
use crate::data::Dataset;
use crate::error::{Error, Result, one_line};
use crate::formats::Checkpoint;

/// Settings that may change when a run is resumed: how far it goes, where it runs, where its pictures are now.
pub const FREE: [&str; 9] =
    ["epochs", "max_steps", "patience", "workers", "adapter", "parallel", "dir", "val", "cache"];

/// Name of the metadata entry of `last.safetensors`.
const KEY: &str = "position";

/// The state of a run that is not in a tensor.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Position {
    /// Training pictures: with another number the steps would be other ones.
    pub pictures: usize,
    /// A fingerprint of all names and classes: with others the order and the split would be others.
    pub names: String,
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
    /// [`Job::components`], if they are wanted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub components: Option<[[f64; 3]; 3]>,
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
    pub fn start(settings: &Settings, dataset: &Dataset) -> Result<Position> {
        let mut settings = settings.table()?;
        settings.retain(|key, _| !FREE.contains(&key));
        Ok(Position {
            settings,
            pictures: dataset.train.len(),
            names: fingerprint(dataset),
            step: 0,
            epochs: 0,
            since_best: 0,
            best: None,
            plateau: Plateau::default(),
            tally: Tally::default(),
            components: None,
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
        if let Some(key) = job.settings.first_difference(&then, &FREE)? {
            return Err(Error::input(format!(
                "the run to resume was not made with the {key} that its config.toml has now: put back what was there"
            )));
        }
        if self.names != fingerprint(&job.dataset) {
            let message = "the pictures of the run to resume had other names or classes: put back those that were renamed, \
                           added or removed since";
            return Err(Error::input(message));
        }
        Ok(())
    }

    /// Takes in an epoch's validation top-1, and whether the network told classes apart; returns whether it is the best so far.
    pub fn observe(&mut self, epoch: usize, top1: f64, tells_apart: bool, lr_patience: usize) -> bool {
        self.plateau.observe(1.0 - top1, tells_apart, lr_patience);
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

    /// Reads the position from a checkpoint's metadata, its [`Checkpoint::extra`].
    ///
    /// # Errors
    /// When it is not a checkpoint to resume from.
    pub fn restore(metadata: &BTreeMap<String, String>) -> Result<Position> {
        let text = metadata.get(KEY).ok_or_else(|| {
            Error::input("the checkpoint does not say where its run stood: resume from a run's last.safetensors")
        })?;
        toml::from_str(text).map_err(|e| Error::input(format!("the run's position: {}", one_line(&e))))
    }
}

/// 64-bit FNV-1a (<http://www.isthe.com/chongo/tech/comp/fnv/>) over split, class and relative path of every picture.
fn fingerprint(dataset: &Dataset) -> String {
    let mut hash = 0xCBF2_9CE4_8422_2325_u64;
    let mut add = |bytes: &[u8]| bytes.iter().for_each(|&b| hash = (hash ^ b as u64).wrapping_mul(0x0100_0000_01B3));
    for (part, items) in [(b"t", &dataset.train), (b"v", &dataset.val)] {
        for item in items.iter() {
            add(part);
            add(dataset.classes[item.class as usize].as_bytes());
            add(b"\0");
            add(item.relative.as_bytes());
            add(b"\0");
        }
    }
    format!("{hash:016x}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::Item;
    use std::sync::Arc;

    fn dataset(names: &[&str]) -> Dataset {
        let item = |name: &&str| Item { path: name.into(), relative: name.to_string(), class: 0 };
        Dataset {
            root: "pictures".into(),
            classes: vec!["cat".into()],
            train: Arc::new(names.iter().map(item).collect()),
            val: Arc::default(),
            labels: crate::data::Labels::Folders,
            val_folder: None,
            notes: Vec::new(),
        }
    }

    fn start() -> Position {
        Position::start(&Settings::merge([]).unwrap(), &dataset(&["a.png", "b.png"])).unwrap()
    }

    #[test]
    fn a_picture_of_another_name_is_another_set() {
        let of = |names: &[&str]| fingerprint(&dataset(names));
        assert_eq!(of(&["a.png", "b.png"]), start().names);
        for other in [&["a.png", "c.png"][..], &["b.png", "a.png"], &["a.png"], &["a.pngb.png"]] {
            assert_ne!(of(other), start().names, "{other:?}");
        }
    }

    #[test]
    fn best_is_the_first_of_equals() {
        let mut position = start();
        assert!(position.observe(1, 0.5, true, 1));
        assert!(!position.observe(2, 0.5, true, 1));
        assert_eq!((position.since_best, position.plateau.drops), (1, 1));
        assert!(position.observe(3, 0.75, true, 1));
        assert_eq!(position.best, Some(Best { epoch: 3, top1: 0.75 }));
    }

    #[test]
    fn round_trips_to_the_bit() {
        let mut position = start();
        position.tally = Tally { n: 3, loss: 0.1 + 0.2, top1: 1, top5: 3 };
        position.observe(1, 1.0 / 3.0, true, 5);
        let text = toml::to_string(&position).unwrap();
        assert_eq!(toml::from_str::<Position>(&text).unwrap(), position);
    }
}
