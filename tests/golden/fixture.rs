//! Fixtures in memory; `fixture.py` says what is in their files.

use std::collections::BTreeMap;
use std::path::Path;

use convoy::ops::IGNORE;
use convoy::tensor::{Data, Tensor};
use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use crate::common;

/// What a check gives, or says; it need not name the case.
pub type Outcome<T> = Result<T, Box<dyn std::error::Error>>;

/// (atol, rtol) of an f32 result.
pub const TOLERANCE: (f64, f64) = (1e-5, 1e-4);

/// One case of a file.
pub struct Fixture {
    /// The file's name, without its extension: of a graph, the op that it is about.
    pub file: String,
    /// The case's name.
    pub case: String,
    /// `graph`, `optimizer`, `training` or `step`.
    pub kind: String,
    options: Value,
    tensors: BTreeMap<String, Tensor>,
}

/// What an op's fields are set to, by their names.
#[derive(Deserialize)]
pub struct Options(Map<String, Value>);

impl Options {
    /// # Panics
    /// When there is no such option, or one of another type.
    pub fn get<T: DeserializeOwned>(&self, name: &str) -> T {
        let value = self.0.get(name).unwrap_or_else(|| panic!("no option {name} in {:?}", self.0));
        T::deserialize(value).unwrap_or_else(|e| panic!("option {name} = {value}: {e}"))
    }

    /// The option of this name, or what stands for it where it is not given.
    pub fn get_or<T: DeserializeOwned>(&self, name: &str, absent: T) -> T {
        if self.0.get(name).is_some() { self.get(name) } else { absent }
    }
}

impl Fixture {
    /// All cases of a folder.
    ///
    /// # Panics
    /// When there is none, or one cannot be read.
    pub fn read_all(folder: &Path) -> Vec<Fixture> {
        let entries = std::fs::read_dir(folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display()));
        let paths = entries.map(|entry| entry.expect("a readable folder").path());
        let mut paths: Vec<_> = paths.filter(|path| path.extension().is_some_and(|e| e == "safetensors")).collect();
        paths.sort();
        assert!(!paths.is_empty(), "{}: no fixtures", folder.display());
        paths.iter().flat_map(|path| Fixture::read(path)).collect()
    }

    fn read(path: &Path) -> Vec<Fixture> {
        let fail = |e: &dyn std::fmt::Display| -> ! { panic!("{}: {e}", path.display()) };
        let bytes = std::fs::read(path).unwrap_or_else(|e| fail(&e));
        let (_, header) = SafeTensors::read_metadata(&bytes).unwrap_or_else(|e| fail(&e));
        let stored = SafeTensors::deserialize(&bytes).unwrap_or_else(|e| fail(&e));
        let cases = header.metadata().as_ref().and_then(|metadata| metadata.get("cases"));
        let cases: BTreeMap<String, Value> =
            serde_json::from_str(cases.map_or("", |text| text)).unwrap_or_else(|e| fail(&e));
        let case = |(case, options): (String, Value)| {
            let prefix = format!("{case}/");
            let own = stored.iter().filter_map(|(name, view)| Some((name.strip_prefix(&prefix)?, view)));
            Fixture {
                file: path.file_stem().expect("a file").to_string_lossy().into_owned(),
                case,
                kind: options["kind"].as_str().unwrap_or_else(|| fail(&"a case without a kind")).to_string(),
                options,
                tensors: own.map(|(name, view)| (name.to_string(), convert(name, &view))).collect(),
            }
        };
        cases.into_iter().map(case).collect()
    }

    /// File and case, for messages.
    pub fn name(&self) -> String {
        format!("{} [{}]", self.file, self.case)
    }

    /// What else the metadata says, as a kind of fixture has it.
    ///
    /// # Panics
    /// When it is something else.
    pub fn options<T: DeserializeOwned>(&self) -> T {
        T::deserialize(&self.options).unwrap_or_else(|e| panic!("{}: {}: {e}", self.name(), self.options))
    }

    /// # Panics
    /// When there is none of that name.
    pub fn tensor(&self, name: &str) -> &Tensor {
        self.tensors.get(name).unwrap_or_else(|| panic!("{}: no tensor {name}", self.name()))
    }

    /// Names and tensors that begin with `prefix`.
    pub fn group(&self, prefix: &str) -> Vec<(&str, &Tensor)> {
        let named = self.tensors.iter().filter(|(name, _)| name.starts_with(prefix));
        named.map(|(name, tensor)| (name.as_str(), tensor)).collect()
    }

    /// Compares with the tensor `name`: shape and elements.
    pub fn check(&self, name: &str, got: &Tensor, tolerance: (f64, f64)) -> Outcome<()> {
        let expected = self.tensor(name);
        if got.shape() != expected.shape() {
            return Err(format!("{name}: a tensor {}, expected {}", got.shape(), expected.shape()).into());
        }
        Ok(common::compare(name, &common::as_f64(got), &common::as_f64(expected), tolerance)?)
    }

    /// The tensor's elements.
    pub fn numbers(&self, name: &str) -> Vec<f64> {
        common::as_f64(self.tensor(name))
    }

    /// A name of its own for a value of this case: a device keeps parameters and state by name.
    pub fn value(&self, name: &str) -> String {
        format!("{} {name}", self.name())
    }
}

/// f32, u8 and whole numbers: PyTorch's labels are i64, -1 for a row to ignore.
fn convert(name: &str, view: &TensorView) -> Tensor {
    let bytes = view.data();
    let data = match view.dtype() {
        Dtype::F32 => Data::F32(bytemuck::pod_collect_to_vec(bytes)),
        Dtype::U8 => Data::U8(bytes.to_vec()),
        Dtype::I64 => {
            let whole = bytemuck::pod_collect_to_vec::<u8, i64>(bytes);
            Data::U32(whole.iter().map(|&v| if v == -1 { IGNORE } else { u32::try_from(v).expect("u32") }).collect())
        }
        other => panic!("{name}: element type {other:?}"),
    };
    Tensor::new(view.shape().to_vec(), data).expect("safetensors checks its sizes")
}
