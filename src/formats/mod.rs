//! Files that other programs read too, and how any file of a run is written.

pub mod atomic;
mod checkpoint;
pub mod csv;
mod model_file;
mod onnx;
mod pretrained;
pub mod safetensors;
mod state_dict;
pub mod text;

pub use checkpoint::Checkpoint;
pub use model_file::{is_model_file, load_model, model_text};
pub use pretrained::Pretrained;
pub use state_dict::StateDict;
