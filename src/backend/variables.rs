//! What a device holds by name: parameters and state, each with its memory.

use std::collections::HashMap;

use crate::error::{Error, Result};
use crate::graph::Value;
use crate::tensor::TensorType;

/// Parameters and state by name; `M` is a reference to a device's memory.
#[derive(Debug)]
pub(super) struct Variables<M>(HashMap<String, (TensorType, M)>);

impl<M> Default for Variables<M> {
    fn default() -> Self {
        Variables(HashMap::new())
    }
}

impl<M: Clone> Variables<M> {
    /// Where a value of this type goes: the memory that `name` has, else `new`, which it has from now on.
    ///
    /// # Errors
    /// When `name` has another type, or there is no new memory.
    pub fn place(&mut self, name: &str, ty: TensorType, new: impl FnOnce() -> Result<M>) -> Result<M> {
        match self.0.get(name) {
            Some((held, memory)) if *held == ty => Ok(memory.clone()),
            Some((held, _)) => Err(Error::shape(name, format!("has shape {}, got {}", held.shape, ty.shape))),
            None => {
                let memory = new()?;
                self.0.insert(name.into(), (ty, memory.clone()));
                Ok(memory)
            }
        }
    }

    /// Type and memory of `name`.
    ///
    /// # Errors
    /// When there is no such.
    pub fn get(&self, name: &str) -> Result<(&TensorType, &M)> {
        let found = self.0.get(name).map(|(ty, memory)| (ty, memory));
        found.ok_or_else(|| Error::input(format!("the device holds no parameter \"{name}\"")))
    }

    /// The memory of a graph's parameter or state.
    ///
    /// # Errors
    /// When it is not there, or has another shape.
    pub fn of(&self, value: &Value) -> Result<&M> {
        match self.0.get(&value.name) {
            Some((ty, memory)) if *ty == value.ty => Ok(memory),
            Some((ty, _)) => {
                let message = format!("the graph expects {}, the device holds {}", value.ty.shape, ty.shape);
                Err(Error::shape(&value.name, message))
            }
            None => Err(Error::shape(&value.name, "is not on the device: set it before compiling")),
        }
    }

    pub fn remove(&mut self, name: &str) {
        self.0.remove(name);
    }
}
