//! A trained network on a device: pictures in, classes and probabilities out. Validation, `eval` and `predict` go the same way.

mod ten_crop;

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::backend::{Device, Program, Ticket};
use crate::data::{Batch, Item, Loader, LoaderOptions, Skipped};
use crate::error::{Error, Result};
use crate::formats::Checkpoint;
use crate::models::{BuildOptions, EvalGraph, MEAN_IMAGE, Model, eval_graph, with_margin};
use crate::tensor::{DType, Tensor, TensorType};
use crate::train::metrics::{Confusion, Means, Tally, labelled_rows, score, softmax};
use ten_crop::{VIEWS, view, view_of_mean};

/// Batches that may be in flight.
const IN_FLIGHT: usize = 4;

/// The forward pass, compiled; it uses the parameters that the device holds at the time.
pub struct Evaluator {
    graph: EvalGraph,
    program: Box<dyn Program>,
}

impl Evaluator {
    /// Compiles the evaluation of `model`, whose parameters must be on the device.
    ///
    /// # Errors
    /// Shape and device errors.
    pub fn new(device: &mut dyn Device, model: &Model, options: &BuildOptions) -> Result<Evaluator> {
        let graph = eval_graph(model, options)?;
        let mut program = device.compile(&graph.graph, &[graph.logits])?;
        // Nothing is random here, but every input must have a value.
        let counter = Tensor::zeros(&TensorType::new([4], DType::U32)).map_err(Error::device)?;
        program.write(graph.counter, &counter)?;
        Ok(Evaluator { graph, program })
    }

    /// Runs `batches`, of the size it was built for; `each` gets a batch with its logits, f32 [N, classes], in order, and says whether to go on.
    /// Returns whether all were run.
    ///
    /// # Errors
    /// The batches' and the device's.
    pub fn run(
        &mut self,
        batches: impl Iterator<Item = Result<Batch>>,
        mut each: impl FnMut(Batch, &Tensor) -> bool,
    ) -> Result<bool> {
        let mut pending: VecDeque<(Ticket, Batch)> = VecDeque::new();
        let mut going = true;
        for batch in batches {
            let batch = batch?;
            self.program.write(self.graph.pictures, &batch.pictures)?;
            pending.push_back((self.program.submit()?, batch));
            if pending.len() > IN_FLIGHT {
                going = self.read_oldest(&mut pending, &mut each)?;
            }
            if !going {
                break;
            }
        }
        // Outputs are taken even when nobody wants them any more: the device keeps them until then.
        while !pending.is_empty() {
            going &= self.read_oldest(&mut pending, &mut each)?;
        }
        Ok(going)
    }

    fn read_oldest(
        &mut self,
        pending: &mut VecDeque<(Ticket, Batch)>,
        each: &mut impl FnMut(Batch, &Tensor) -> bool,
    ) -> Result<bool> {
        let Some((ticket, batch)) = pending.pop_front() else { return Ok(true) };
        match self.program.outputs(ticket, true)?.as_deref() {
            Some([logits]) => Ok(each(batch, logits)),
            _ => Err(Error::device("the device lost the outputs of a step")),
        }
    }
}

/// A checkpoint, ready to run in batches.
///
/// ```no_run
/// # fn main() -> convoy::Result<()> {
/// let (device, _why) = convoy::backend::select::open("auto")?;
/// let mut classifier = convoy::Classifier::load("runs/cats/best.safetensors".as_ref(), device, 1)?;
/// for prediction in classifier.predict(&["cat.jpg"])? {
///     println!("{prediction:?}");
/// }
/// # Ok(())
/// # }
/// ```
pub struct Classifier {
    checkpoint: Checkpoint,
    // Before the device: a program may hold on to what the device owns.
    evaluator: Evaluator,
    device: Box<dyn Device>,
    batch: usize,
    views: Views,
    /// Of ten crops of pictures less a mean image, the image of each view.
    means_of_views: Vec<Tensor>,
}

/// How often a picture is looked at.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Views {
    /// Once: its centre.
    #[default]
    Center,
    /// Ten times: corners, centre, and their mirror images; the probabilities are averaged.
    TenCrop,
}

/// What the network makes of one picture.
#[derive(Clone, Debug)]
pub struct Prediction {
    /// The picture's file.
    pub path: PathBuf,
    /// Every class, the most probable first; or why the picture cannot be read.
    pub scores: Result<Vec<Score>, String>,
}

/// A class and its probability.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
pub struct Score {
    /// Name of the class.
    pub label: String,
    /// In [0, 1]; all classes sum to 1.
    pub probability: f64,
}

/// How a network does on labelled pictures.
#[derive(Clone, Debug)]
pub struct Evaluation {
    /// Loss, top-1 and top-5.
    pub means: Means,
    /// Pictures evaluated.
    pub n: u64,
    /// Counts by true and predicted class.
    pub confusion: Confusion,
    /// Pictures that could not be read.
    pub skipped: Vec<Skipped>,
}

impl Classifier {
    /// Loads the checkpoint at `path` onto `device`, to run on up to `batch` pictures at a time.
    ///
    /// # Errors
    /// When the checkpoint cannot be read (see [`Checkpoint::load`]) or the device cannot hold or run the network.
    pub fn load(path: &Path, device: Box<dyn Device>, batch: usize) -> Result<Self> {
        Self::new(Checkpoint::load(path)?, device, batch)
    }

    /// Puts a checkpoint onto `device`. Its tensors are moved there: those in [`Classifier::checkpoint`] are gone.
    ///
    /// # Errors
    /// When the device cannot hold or run the network.
    pub fn new(checkpoint: Checkpoint, device: Box<dyn Device>, batch: usize) -> Result<Self> {
        Self::with_views(checkpoint, device, batch, Views::Center)
    }

    /// The same, which looks at each picture as `views` says. Ten crops need a margin: where the network saw whole pictures in training
    /// they are decoded larger, 256 pixels for 224.
    ///
    /// # Errors
    /// As [`Classifier::new`].
    pub fn with_views(
        mut checkpoint: Checkpoint,
        mut device: Box<dyn Device>,
        batch: usize,
        views: Views,
    ) -> Result<Self> {
        let mut options = BuildOptions { fold: true, ..checkpoint.build_options(batch) };
        if views == Views::TenCrop {
            let seen = options.network_size(&checkpoint.model);
            if checkpoint.stored_size == seen {
                checkpoint.stored_size = seen.map(with_margin);
            }
            options.stored_size = Some(seen);
        }
        let mut tensors = std::mem::take(&mut checkpoint.tensors);
        let mut means_of_views = Vec::new();
        if let (Views::TenCrop, Some(image)) = (views, tensors.get(MEAN_IMAGE).cloned()) {
            let seen = options.network_size(&checkpoint.model);
            let views = 0..VIEWS;
            means_of_views = views.map(|n| view_of_mean(&image, n, seen)).collect::<Result<_>>()?;
            tensors.insert(MEAN_IMAGE.into(), means_of_views[0].clone());
        }
        let graph = eval_graph(&checkpoint.model, &options)?;
        graph.folds.iter().try_for_each(|fold| fold.apply(&mut tensors))?;
        for parameter in &graph.parameters {
            let missing = || Error::input(format!("the checkpoint has no tensor {}", parameter.name));
            device.set(&parameter.name, &tensors.remove(&parameter.name).ok_or_else(missing)?)?;
        }
        let evaluator = Evaluator::new(device.as_mut(), &checkpoint.model, &options)?;
        Ok(Classifier { checkpoint, evaluator, device, batch, views, means_of_views })
    }

    /// What the network is and how pictures reach it; without its tensors.
    pub fn checkpoint(&self) -> &Checkpoint {
        &self.checkpoint
    }

    /// Names of the classes, in the logits' order.
    pub fn classes(&self) -> &[String] {
        &self.checkpoint.classes
    }

    /// What libraries of the device's vendor refused to compute, see [`Program::refused`].
    pub fn refused(&self) -> &[String] {
        self.evaluator.program.refused()
    }

    /// Loss, accuracy and confusion matrix on labelled pictures, whose classes are numbers of [`Classifier::classes`].
    ///
    /// # Errors
    /// When no picture could be read, or the device fails.
    pub fn evaluate(&mut self, items: Vec<Item>) -> Result<Evaluation> {
        let loader = self.loader(items);
        let (mut tally, mut confusion) = (Tally::default(), Confusion::new(self.classes().len()));
        self.run(&loader, |batch, logits| {
            for (row, label) in labelled_rows(logits, &batch.labels) {
                let scored = score(row, label);
                tally.add(scored);
                confusion.add(label, scored.predicted);
            }
        })?;
        let skipped = loader.skipped();
        match &skipped[..] {
            [first, ..] if tally.n == 0 => {
                let message = format!("no picture could be read, the first ({}): {}", first.relative, first.reason);
                Err(Error::input(message))
            }
            _ => Ok(Evaluation { means: tally.means(), n: tally.n, confusion, skipped }),
        }
    }

    /// Classes and probabilities of picture files, in their order. A picture that cannot be read has the reason in its place.
    ///
    /// # Errors
    /// When the device fails.
    pub fn predict<P: AsRef<Path>>(&mut self, paths: &[P]) -> Result<Vec<Prediction>> {
        let item =
            |path: &P| Item { path: path.as_ref().into(), relative: path.as_ref().to_string_lossy().into(), class: 0 };
        let loader = self.loader(paths.iter().map(item).collect());
        let classes = self.checkpoint.classes.clone();
        let mut scores: Vec<Result<Vec<Score>, String>> = Vec::with_capacity(paths.len());
        self.run(&loader, |batch, logits| {
            let rows = logits.as_f32().unwrap_or_default().chunks(classes.len());
            scores.extend(
                rows.zip(&batch.items).filter(|(_, item)| item.is_some()).map(|(row, _)| Ok(ranked(row, &classes))),
            );
        })?;
        for picture in loader.skipped() {
            if let Some(place) = scores.get_mut(picture.item) {
                *place = Err(picture.reason);
            }
        }
        Ok(paths.iter().zip(scores).map(|(path, scores)| Prediction { path: path.as_ref().into(), scores }).collect())
    }

    /// Runs all of a loader's batches; `each` gets a batch with its logits, in order: of several views the logarithms of the mean
    /// probabilities, whose softmax these are.
    fn run(&mut self, loader: &Loader, mut each: impl FnMut(&Batch, &Tensor)) -> Result<()> {
        if self.views == Views::Center {
            let each = |batch: Batch, logits: &Tensor| {
                each(&batch, logits);
                loader.recycle(batch);
                true
            };
            return self.evaluator.run(loader.batches(), each).map(drop);
        }
        let seen = self.checkpoint.build_options(1).network_size(&self.checkpoint.model);
        let numbered = loader.batches().flat_map(|batch| -> Vec<Result<(Arc<Batch>, usize)>> {
            match batch.map(Arc::new) {
                Ok(batch) => (0..VIEWS).map(|n| Ok((batch.clone(), n))).collect(),
                Err(error) => vec![Err(error)],
            }
        });
        let (device, means_of_views) = (&mut self.device, &self.means_of_views);
        let views = numbered.map(|numbered| {
            let (batch, n) = numbered?;
            // Each view is submitted before the next is asked for.
            means_of_views.get(n).map_or(Ok(()), |mean| device.set(MEAN_IMAGE, mean))?;
            view(&batch, n, seen)
        });
        let (mut sums, mut count, mut failure) = (Vec::<f64>::new(), 0, Ok(()));
        self.evaluator.run(views, |batch, logits| {
            let classes = logits.shape()[1];
            let probabilities = logits.as_f32().unwrap_or_default().chunks(classes).flat_map(softmax);
            sums.resize(logits.shape().elements(), 0.0);
            sums.iter_mut().zip(probabilities).for_each(|(sum, p)| *sum += p);
            count += 1;
            if count % VIEWS == 0 {
                let means = sums.drain(..).map(|sum| (sum / VIEWS as f64).max(f64::MIN_POSITIVE).ln() as f32).collect();
                match Tensor::f32(logits.shape().clone(), means) {
                    Ok(means) => each(&batch, &means),
                    Err(message) => failure = Err(Error::device(message)),
                }
            }
            failure.is_ok()
        })?;
        failure
    }

    fn loader(&self, items: Vec<Item>) -> Loader {
        let options = LoaderOptions {
            batch: self.batch,
            size: self.checkpoint.stored_size,
            resize: self.checkpoint.resize,
            workers: std::thread::available_parallelism().map_or(1, |n| n.get()),
        };
        Loader::new(Arc::new(items), options)
    }
}

/// Classes and probabilities, the most probable first; of equals the one that comes first in `classes`.
fn ranked(logits: &[f32], classes: &[String]) -> Vec<Score> {
    let named = classes.iter().zip(softmax(logits));
    let mut scores: Vec<Score> =
        named.map(|(label, probability)| Score { label: label.clone(), probability }).collect();
    scores.sort_by(|a, b| b.probability.total_cmp(&a.probability));
    scores
}
