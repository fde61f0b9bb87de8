//! What a run tells while it goes on, and at its end.

use super::metrics::Means;
use super::position::Best;

/// Something that happened in a run. Numbers of epochs and steps count from 1.
#[derive(Clone, Debug)]
pub enum Event {
    /// An epoch's steps begin, or go on after a resume.
    Started {
        /// Running epoch.
        epoch: usize,
        /// Epochs of the run.
        epochs: usize,
        /// Its steps that are done already.
        done: u64,
        /// Steps of an epoch.
        iterations: u64,
    },
    /// A step's loss was read.
    Step {
        /// Running epoch.
        epoch: usize,
        /// Epochs of the run.
        epochs: usize,
        /// Step within the epoch.
        iteration: u64,
        /// Steps of an epoch.
        iterations: u64,
        /// The step's loss.
        loss: f32,
        /// Means over the epoch so far.
        means: Means,
        /// Training speed in this epoch.
        images_per_second: f64,
    },
    /// Validation goes on.
    Validating {
        /// Pictures done.
        done: usize,
        /// Of so many.
        pictures: usize,
    },
    /// Validation is done.
    Validated {
        /// Running epoch.
        epoch: usize,
        /// Means over the validation pictures.
        means: Means,
        /// Whether it was the best epoch so far.
        best: bool,
    },
    /// An epoch ended.
    Epoch {
        /// The epoch.
        epoch: usize,
        /// Epochs of the run.
        epochs: usize,
        /// Means over its steps.
        means: Means,
        /// Its training speed.
        images_per_second: f64,
    },
    /// Something to know of the pictures.
    Notice {
        /// One line.
        text: String,
        /// Whether something is not as it should be.
        warning: bool,
    },
    /// A picture could not be read, and is left out.
    Skipped {
        /// Its path below the folder.
        relative: String,
        /// Why.
        reason: String,
    },
}

/// Why a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stopped {
    /// All epochs are done.
    Epochs,
    /// `max_steps` was reached.
    Steps,
    /// Validation did not get better for `patience` epochs.
    Patience,
    /// It was interrupted; `last.safetensors` holds where.
    Interrupted,
}

/// How a run ended.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// Why.
    pub stopped: Stopped,
    /// Steps done, those before a resume included.
    pub step: u64,
    /// Best epoch by validation top-1.
    pub best: Option<Best>,
    /// Says which class lost more than a tenth of its pictures, if one did.
    pub lost: Option<String>,
}
