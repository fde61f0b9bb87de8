//! The reader of model files. Messages name the file, the line and the layer.
//!
//! ```toml
//! layers = [
//!     { kind = "conv2d", out = 16, kernel = 3, padding = 1 },
//!     "relu",                                # a kind without numbers is its name alone
//!     { kind = "max_pool2d", kernel = 2 },
//!     { kind = "conv2d", out = 16, kernel = 3, padding = 1 },
//!     { kind = "add", from = "pool1" },      # to what the layer before gives
//!     "global_avg_pool2d", "flatten",
//!     { kind = "linear", out = "classes" },
//! ]
//! ```

mod item;

use std::collections::HashSet;
use std::path::Path;

use serde::Deserialize;
use toml::Spanned;
use toml::de::{DeTable, DeValue, Deserializer};

use self::item::Item;
use super::layer::{self, Layer, LayerKind, Place};
use super::{Init, Model};
use crate::error::{Error, Result, line_of, one_line, serde_message, toml_message};
use crate::ops::ActivationKind;

/// What [`Layer::from`] calls the picture.
pub(super) const INPUT: &str = "input";

/// A model's keys.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Head {
    name: Option<String>,
    #[serde(default)]
    about: String,
    #[serde(default = "imagenet")]
    input: [usize; 3],
    #[serde(default = "layer::relu", deserialize_with = "layer::activation_name::deserialize")]
    activation: ActivationKind,
    #[serde(default)]
    init: Init,
    /// Read apart, for their places.
    #[serde(rename = "layers")]
    _layers: Option<toml::Value>,
}

fn imagenet() -> [usize; 3] {
    [3, 224, 224]
}

impl Model {
    /// Reads a model from TOML. `origin` is what messages call the text: its file, or the checkpoint that holds it. A model without a name
    /// has the file's.
    ///
    /// # Errors
    /// When the text is not a model; the message names the line, the layer, and what was expected.
    pub fn parse(text: &str, origin: &str) -> Result<Model> {
        read(text, origin).map_err(|message| Error::input(format!("{origin}: {message}")))
    }
}

fn read(text: &str, origin: &str) -> Result<Model, String> {
    let mut root = DeTable::parse(text).map_err(|e| toml_message(text, &e))?;
    let layers = root.get_mut().get_mut("layers").map(|layers| {
        let span = layers.span();
        Spanned::new(span, std::mem::replace(layers.get_mut(), DeValue::Boolean(true)))
    });
    let keys: Vec<_> = root.get_ref().iter().map(|(key, value)| (key.get_ref().to_string(), value.span())).collect();
    let head = Head::deserialize(Deserializer::from(root)).map_err(|e| {
        let wrong =
            |span: &std::ops::Range<usize>| e.span().is_some_and(|at| span.start <= at.start && at.end <= span.end);
        match keys.iter().find(|(_, span)| wrong(span)) {
            Some((key, span)) => {
                // Some messages begin with the key themselves.
                let told = serde_message(&e.message());
                let told = told.strip_prefix(&format!("{key} = ")).map_or(format!("{key}: {told}"), |_| told.clone());
                format!("line {}: {told}", line_of(text, span.start))
            }
            None => toml_message(text, &e),
        }
    })?;
    let name = head.name.unwrap_or_else(|| match Path::new(origin).file_stem() {
        Some(stem) => stem.to_string_lossy().into_owned(),
        None => origin.into(),
    });
    if head.input[0] != 3 || head.input.contains(&0) {
        let line = keys.iter().find(|(key, _)| key == "input").map_or(1, |(_, span)| line_of(text, span.start));
        let got = head.input;
        return Err(format!("line {line}: input = {got:?}: expected [3, height, width], the pictures being RGB"));
    }
    if name.trim().is_empty() || [&name, &head.about].into_iter().any(|text| text.contains(char::is_control)) {
        return Err("name and about: expected text on one line, for the name at least a letter".into());
    }
    let items = match layers.map(|layers| (layers.span(), layers.into_inner())) {
        Some((_, DeValue::Array(items))) if !items.is_empty() => items,
        Some((span, other)) if !matches!(other, DeValue::Array(_)) => {
            let line = line_of(text, span.start);
            return Err(format!("line {line}: layers: expected a list, layers = [..], got {}", other.type_str()));
        }
        _ => return Err("a model needs layers: layers = [{ kind = \"conv2d\", .. }, ..]".into()),
    };
    let items = items.into_iter().map(|item| Item::read(text, item)).collect::<Result<Vec<_>, _>>()?;
    let mut model = Model {
        name,
        about: head.about,
        input: head.input,
        activation: head.activation,
        init: head.init,
        layers: Vec::new(),
    };
    let lines: Vec<usize> = items.iter().map(|item| item.line).collect();
    model.layers = named(items, origin);
    for (n, line) in lines.iter().enumerate() {
        let layer = &model.layers[n];
        let wrong = |message: String| format!("line {line}: layer {}: {message}", one_line(&layer.name));
        layer.check(&model).map_err(wrong)?;
        if let Some(first) = model.layers[..n].iter().position(|other| other.name == layer.name) {
            return Err(format!(
                "line {line}: two layers are called {:?}, this one and that of line {}: give each its own name",
                layer.name, lines[first]
            ));
        }
        check_sources(&model.layers[..n], layer).map_err(wrong)?;
    }
    for (n, line) in lines.iter().enumerate().take(lines.len() - 1) {
        if model.readers(n).is_empty() {
            let name = &model.layers[n].name;
            return Err(format!(
                "line {line}: layer {name}: no layer reads what it gives: take it away, or name it in a later layer's from"
            ));
        }
    }
    Ok(model)
}

/// Gives Caffe's names to layers without: the kind's, and the number of the last layer with a weight.
fn named(items: Vec<Item>, origin: &str) -> Vec<Layer> {
    let mut taken: HashSet<String> = items.iter().filter_map(|item| item.name.clone()).collect();
    let mut number = 0;
    let mut layers = Vec::with_capacity(items.len());
    for Item { line, name, from, scales, kind } in items {
        number += usize::from(kind.has_weight());
        let name = name.unwrap_or_else(|| {
            let first = match kind {
                LayerKind::Flatten {} => kind.prefix().to_string(),
                _ => format!("{}{number}", kind.prefix()),
            };
            let more = (2..).map(|n| format!("{first}_{n}"));
            let name = std::iter::once(first.clone()).chain(more).find(|name| !taken.contains(name));
            name.unwrap_or(first)
        });
        taken.insert(name.clone());
        let place =
            if origin.to_lowercase().ends_with(".toml") { format!("{origin}: line {line}") } else { String::new() };
        layers.push(Layer { name, from, scales, kind, place: Place(place) });
    }
    layers
}

/// Whether a layer reads what there is.
fn check_sources(before: &[Layer], layer: &Layer) -> Result<(), String> {
    for from in &layer.from {
        if from != INPUT && !before.iter().any(|other| other.name == *from) {
            let names: Vec<&str> = before.iter().map(|layer| layer.name.as_str()).chain([INPUT]).collect();
            return Err(format!("from = {from:?}: no layer before it has that name; there are {}", names.join(", ")));
        }
    }
    match (layer.kind.joins(), layer.from.len()) {
        (true, 0) => Err(format!("{} needs the name of another layer: from = \"pool1\"", layer.kind.name())),
        (false, count) if count > 1 => Err(format!("{} reads one layer, from names {count}", layer.kind.name())),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests;
