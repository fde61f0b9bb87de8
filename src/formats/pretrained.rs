//! Weights that another training made: a safetensors file of any program, from which a network takes what fits.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::safetensors;
use crate::error::{Error, Result};
use crate::models::{MEAN_IMAGE, Parameter};
use crate::tensor::Tensor;

/// Names that a message lists at most.
const MOST_NAMES: usize = 6;

/// Tensors by the names of a network's parameters.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Pretrained {
    path: PathBuf,
    tensors: BTreeMap<String, Tensor>,
}

impl Pretrained {
    /// Reads the numbers of a file, a checkpoint of convoy or a PyTorch state dict in safetensors. Those of 16 or 64 bits become f32, those
    /// that are whole are left out.
    ///
    /// # Errors
    /// When the file cannot be read, is no safetensors file, or holds a number that is not finite.
    pub fn load(path: &Path) -> Result<Pretrained> {
        let tensors = safetensors::load_floats(path)?.tensors;
        for (name, tensor) in &tensors {
            if let Some(bad) = tensor.as_f32().unwrap_or_default().iter().find(|value| !value.is_finite()) {
                return Err(Error::input(format!("{}: {name} holds {bad}: its weights are damaged", path.display())));
            }
        }
        Ok(Pretrained { path: path.into(), tensors })
    }

    /// The first values of a parameter, where the file has its name and shape.
    pub fn get(&self, parameter: &Parameter) -> Option<&Tensor> {
        self.tensors.get(&parameter.name).filter(|tensor| *tensor.shape() == parameter.shape)
    }

    /// What a network takes of the file, and what it does not, in lines for people.
    ///
    /// # Errors
    /// When it takes nothing.
    pub fn report(&self, parameters: &[Parameter]) -> Result<Vec<String>> {
        let taken: Vec<&Parameter> = parameters.iter().filter(|parameter| self.get(parameter).is_some()).collect();
        let path = self.path.display();
        // A mean image alone fits any network of the size.
        if !taken.iter().any(|parameter| parameter.is_trained()) {
            let own = parameters.iter().map(|parameter| format!("{} {}", parameter.name, parameter.shape));
            let there = self.tensors.iter().map(|(name, tensor)| format!("{name} {}", tensor.shape()));
            return Err(Error::input(format!(
                "{path}: no tensor has the name and shape of one of the model's: it has {}; the model has {}. \
                 Choose the --model that the file is of",
                some(there.collect()),
                some(own.collect())
            )));
        }
        let mut lines = vec![format!("pretrained: {} of {} tensors from {path}", taken.len(), parameters.len())];
        let missing = |parameter: &&Parameter| self.get(parameter).is_none() && parameter.name != MEAN_IMAGE;
        let anew = parameters.iter().filter(missing).map(|parameter| {
            let Parameter { name, shape, .. } = parameter;
            let frozen = if parameter.is_frozen() { ", and stays so: its rate is 0" } else { "" };
            match self.tensors.get(name) {
                Some(tensor) => format!("{name} {shape} ({} in the file){frozen}", tensor.shape()),
                None => format!("{name} {shape}{frozen}"),
            }
        });
        let known = |name: &str| parameters.iter().any(|parameter| parameter.name == name);
        // A run's last.safetensors has the optimizer's state of each parameter too.
        let state = |name: &str| name.rsplit_once('.').is_some_and(|(parameter, _)| known(parameter));
        let others = self.tensors.keys().filter(|name| !known(name) && !state(name)).cloned();
        for (what, names) in [("starts anew", anew.collect::<Vec<_>>()), ("not in the model", others.collect())] {
            if !names.is_empty() {
                lines.push(format!("pretrained: {what}: {}", some(names)));
            }
        }
        Ok(lines)
    }
}

/// The first of these, and how many more there are.
pub(super) fn some(names: Vec<String>) -> String {
    let more = names.len().saturating_sub(MOST_NAMES);
    let told = names[..names.len() - more].join(", ");
    match (names.len(), more) {
        (0, _) => "none".into(),
        (_, 0) => told,
        _ => format!("{told} and {more} more"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::models::{BuildOptions, Model, eval_graph};

    fn parameters(classes: usize) -> Vec<Parameter> {
        eval_graph(&Model::find("four-layer").unwrap(), &BuildOptions::new(1, classes)).unwrap().parameters
    }

    #[test]
    fn takes_what_fits_and_says_what_does_not() {
        let mut tensors: BTreeMap<String, Tensor> =
            parameters(10).iter().map(|p| (p.name.clone(), p.initial(1).unwrap())).collect();
        tensors.insert("head.weight".into(), Tensor::f32([1], vec![1.0]).unwrap());
        tensors.insert("conv1.weight.velocity".into(), Tensor::f32([1], vec![1.0]).unwrap());
        let mut pretrained = Pretrained { path: "w.safetensors".into(), tensors };
        let expected = [
            "pretrained: 6 of 8 tensors from w.safetensors",
            "pretrained: starts anew: fc4.weight [3, 1024] ([10, 1024] in the file), fc4.bias [3] ([10] in the file)",
            "pretrained: not in the model: head.weight",
        ];
        assert_eq!(pretrained.report(&parameters(3)).unwrap(), expected);
        assert!(pretrained.get(&parameters(3)[6]).is_none() && pretrained.get(&parameters(10)[6]).is_some());
        pretrained.tensors.retain(|name, _| name == "head.weight");
        let error = pretrained.report(&parameters(3)).unwrap_err().to_string();
        assert!(error.contains("head.weight [1]; the model has conv1.weight [32, 3, 5, 5]"), "{error}");
        assert!(error.contains("and 2 more"), "{error}");
    }
}
