//! `convoy export`: a trained network as a file for other programs.

use std::path::{Path, PathBuf};

use super::console::{Console, bytes};
use super::model_help;
use convoy::error::escaped;
use convoy::formats::{Checkpoint, StateDict, load_model, text};
use convoy::models::eval_graph;
use convoy::train::config::ResizeKind;
use convoy::{Error, Result};

/// Options of `convoy export`.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// A checkpoint, such as runs/NAME/best.safetensors; with --model another program's weights
    #[arg(value_name = "CKPT")]
    checkpoint: PathBuf,
    /// File to write. NAME.onnx: input `pictures`, u8 [N, H, W, 3], RGB; outputs `logits` and `probabilities`, [N, classes]; how pictures are
    /// resized to H and W, and the classes, are in its metadata. NAME.safetensors: the weights alone
    out: PathBuf,
    #[command(flatten)]
    foreign: Foreign,
}

/// What another program's weights do not say of themselves.
#[derive(clap::Args, Debug)]
struct Foreign {
    #[arg(long, help = format!("CKPT holds another program's weights, a PyTorch state dict in safetensors, of this network. {}", model_help()))]
    model: Option<String>,
    /// File of the classes' names, one a line, in the logits' order [default: their numbers]
    #[arg(long, value_name = "FILE", requires = "model")]
    classes: Option<PathBuf>,
    /// Height and width of what the network sees, pixels [default: the model's own]
    #[arg(long, value_name = "N", requires = "model", value_parser = side())]
    image_size: Option<u32>,
    /// Height and width to which pictures are resized, of which the network sees the centre [default: 256 for 224, 37 for 32]
    #[arg(long, value_name = "N", requires = "model", value_parser = side())]
    stored_size: Option<u32>,
    /// How pictures become square
    #[arg(long, value_enum, default_value_t = ResizeKind::ShorterSide, requires = "model")]
    resize: ResizeKind,
    /// Per channel R,G,B of pixels in 0..1: subtracted
    #[arg(long, value_name = "R,G,B", value_parser = rgb, allow_hyphen_values = true, requires = "model", default_value = "0.485,0.456,0.406")]
    mean: [f32; 3],
    /// Per channel R,G,B: divided by
    #[arg(long, value_name = "R,G,B", value_parser = above_zero, requires = "model", default_value = "0.229,0.224,0.225")]
    std: [f32; 3],
}

/// A picture's height or width.
fn side() -> clap::builder::RangedI64ValueParser<u32> {
    clap::value_parser!(u32).range(1..=16_383)
}

/// Three deviations.
fn above_zero(text: &str) -> Result<[f32; 3], String> {
    let numbers = rgb(text)?;
    if numbers.iter().all(|&number| number > 0.0) { Ok(numbers) } else { Err("expected numbers above 0".into()) }
}

/// Three numbers with commas between.
fn rgb(text: &str) -> Result<[f32; 3], String> {
    let numbers: Option<Vec<f32>> = text.split(',').map(|number| number.trim().parse().ok()).collect();
    numbers
        .and_then(|numbers| numbers.try_into().ok())
        .ok_or_else(|| "expected three numbers, such as 0.5,0.5,0.5".into())
}

impl Foreign {
    fn about(&self, model: &str) -> Result<StateDict> {
        let side = |side: Option<u32>| side.map(|side| side as usize);
        let model = load_model(model)?;
        let seen = self.image_size.map_or(model.input[1].max(model.input[2]), |size| size as usize);
        if let Some(stored) = self.stored_size.filter(|&stored| (stored as usize) < seen) {
            let message =
                format!("--stored-size {stored}: expected {seen} or more, which the network sees of a picture");
            return Err(Error::input(message));
        }
        Ok(StateDict {
            model,
            classes: self.classes.as_deref().map(names).transpose()?,
            image_size: side(self.image_size),
            stored_size: side(self.stored_size),
            resize: self.resize.into(),
            mean: self.mean,
            std: self.std,
        })
    }
}

/// The lines of a file. A name may be there twice: two of ImageNet's classes are "crane".
fn names(path: &Path) -> Result<Vec<String>> {
    let text = text::read(path, "cannot read the classes' names")?;
    let names: Vec<String> = text.trim_end().lines().map(|line| line.trim().to_string()).collect();
    match names.iter().position(String::is_empty) {
        Some(at) => {
            Err(Error::input(format!("{} line {}: it is empty; expected a class's name", path.display(), at + 1)))
        }
        None => Ok(names),
    }
}

/// Whether both are the same file.
fn same(one: &Path, other: &Path) -> bool {
    matches!((one.canonicalize(), other.canonicalize()), (Ok(one), Ok(other)) if one == other)
}

/// Writes the file.
///
/// # Errors
/// When the checkpoint cannot be used or the file not be written.
pub fn run(args: Args, console: &Console) -> Result<()> {
    let Args { checkpoint: from, out, foreign } = args;
    let format = out.extension().and_then(|extension| extension.to_str()).map(str::to_ascii_lowercase);
    let onnx = match format.as_deref() {
        Some("onnx") => true,
        Some("safetensors") => false,
        _ => {
            let message = "what to write is told by the name: expected one that ends in .onnx or .safetensors";
            return Err(Error::input(format!("{}: {message}", out.display())));
        }
    };
    if same(&from, &out) || out.file_name().is_some_and(|name| name == "last.safetensors") && out.exists() {
        let message = "this is what a run goes on from, which would be lost; give OUT another name";
        return Err(Error::input(format!("{}: {message}", out.display())));
    }
    let checkpoint = match &foreign.model {
        Some(model) => Checkpoint::from_state_dict(&from, foreign.about(model)?)?,
        None => Checkpoint::load(&from)?,
    };
    let network = eval_graph(&checkpoint.model, &checkpoint.build_options(1))?;
    let [height, width] = checkpoint.stored_size;
    let told = format!(
        "{}, {} parameters, {} classes, pictures of {height}x{width}",
        checkpoint.model.name,
        network.parameters.iter().filter(|p| p.is_trained()).map(|p| p.shape.elements()).sum::<usize>(),
        checkpoint.classes.len()
    );
    match onnx {
        true => checkpoint.save_onnx(&out)?,
        false => checkpoint.without_state()?.save(&out)?,
    }
    let size = std::fs::metadata(&out).map_or(0, |about| about.len());
    console.say(escaped(&format!("{}: {told}, {}", out.display(), bytes(size))))
}
