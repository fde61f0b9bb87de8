//! One layer of a model file: its keys, read and checked each by itself.

use serde::Deserialize;
use toml::Spanned;
use toml::de::{DeTable, DeValue, ValueDeserializer};

use super::INPUT;
use crate::error::{line_of, one_line, serde_message};
use crate::models::{LayerKind, LayerScales};

/// A layer before it has a name.
pub(super) struct Item {
    pub line: usize,
    pub name: Option<String>,
    pub from: Vec<String>,
    pub scales: LayerScales,
    pub kind: LayerKind,
}

/// The keys of a layer that are not read yet.
struct Keys {
    values: toml::Table,
    /// Of each key, the first first; none of a layer that is a kind's name alone.
    lines: Vec<(String, usize)>,
    /// Of the layer.
    line: usize,
    /// How messages begin after the line: the layer's name, when it has one.
    called: String,
}

impl Item {
    pub fn read(text: &str, item: Spanned<DeValue>) -> Result<Item, String> {
        let line = line_of(text, item.span().start);
        let mut keys = match item.into_inner() {
            DeValue::Table(table) => Keys::new(text, table, line)?,
            DeValue::String(kind) => {
                let values = toml::Table::from_iter([("kind".to_string(), kind.into_owned().into())]);
                Keys { values, lines: Vec::new(), line, called: String::new() }
            }
            other => {
                let got = other.type_str();
                return Err(format!(
                    "line {line}: expected a layer, {{ kind = \"conv2d\", .. }} or \"relu\", got {got}"
                ));
            }
        };
        let name = keys.name()?;
        let from = keys.from()?;
        let factors = keys.factors()?;
        let kind = keys.kind()?;
        let scales = keys.scales(factors, &kind)?;
        Ok(Item { line, name, from, scales, kind })
    }
}

impl Keys {
    fn new(text: &str, table: DeTable, line: usize) -> Result<Keys, String> {
        let (mut values, mut lines) = (toml::Table::new(), Vec::new());
        for (key, value) in table {
            let line = line_of(text, key.span().start);
            let key = key.into_inner().into_owned();
            let value = toml::Value::deserialize(ValueDeserializer::from(value))
                .map_err(|e| format!("line {line}: {key}: {}", serde_message(&e.message())))?;
            lines.push((key.clone(), line));
            values.insert(key, value);
        }
        lines.sort_by_key(|(_, line)| *line);
        Ok(Keys { values, lines, line, called: String::new() })
    }

    /// A message about one key.
    fn wrong(&self, key: &str, message: &str) -> String {
        let line = self.lines.iter().find(|(other, _)| other == key).map_or(self.line, |(_, line)| *line);
        format!("line {line}: {}{key}{message}", self.called)
    }

    fn name(&mut self) -> Result<Option<String>, String> {
        let name = match self.values.remove("name") {
            None => return Ok(None),
            Some(toml::Value::String(name)) if name == INPUT => {
                let message = format!(" = \"{INPUT}\": that is the picture's name; choose another");
                return Err(self.wrong("name", &message));
            }
            Some(toml::Value::String(name)) if !name.is_empty() => name,
            Some(other) => return Err(self.wrong("name", &format!(" = {other}: expected a name, such as \"conv1\""))),
        };
        self.called = format!("layer {}: ", one_line(&name));
        Ok(Some(name))
    }

    fn from(&mut self) -> Result<Vec<String>, String> {
        match self.values.remove("from") {
            None => Ok(Vec::new()),
            Some(toml::Value::String(from)) => Ok(vec![from]),
            Some(other) => {
                other.try_into().map_err(|_| self.wrong("from", ": expected the name of a layer, or a list of names"))
            }
        }
    }

    /// What the layer says of each of [`LayerScales::KEYS`].
    fn factors(&mut self) -> Result<[Option<f32>; 3], String> {
        let mut factors = [None; 3];
        for (key, factor) in LayerScales::KEYS.into_iter().zip(&mut factors) {
            let Some(value) = self.values.remove(key) else { continue };
            match value.as_float().or(value.as_integer().map(|n| n as f64)) {
                Some(n) if n == 0.0 || (f64::from(f32::MIN_POSITIVE)..=f64::from(f32::MAX)).contains(&n) => {
                    *factor = Some(n as f32);
                }
                _ => {
                    let value = value.as_float().map_or_else(|| value.to_string(), |n| format!("{n:?}"));
                    let message = format!(" = {value}: expected 0, or a number from 1.2e-38 to 3.4e38");
                    return Err(self.wrong(key, &message));
                }
            }
        }
        Ok(factors)
    }

    /// Refuses factors of what the layer has not.
    fn scales(&self, factors: [Option<f32>; 3], kind: &LayerKind) -> Result<LayerScales, String> {
        let has_bias = match kind {
            LayerKind::Conv2d { bias, .. } | LayerKind::Linear { bias, .. } => bias.start().is_some(),
            _ => kind.is_trained(),
        };
        let idle = |key: &str| if key == "bias_lr_scale" { !has_bias } else { !kind.is_trained() };
        let mut given = LayerScales::KEYS.into_iter().zip(factors).filter(|(_, factor)| factor.is_some());
        if let Some((key, _)) = given.find(|(key, _)| idle(key)) {
            let of = if kind.is_trained() { "bias" } else { "parameters" };
            return Err(self.wrong(key, &format!(": the layer ({}) has no {of} to train", kind.name())));
        }
        let [lr, bias_lr_scale, decay] = factors;
        Ok(LayerScales { lr_scale: lr.unwrap_or(1.0), bias_lr_scale, decay_scale: decay.unwrap_or(1.0) })
    }

    /// The kind, of all keys that the other functions leave.
    fn kind(&self) -> Result<LayerKind, String> {
        LayerKind::deserialize(self.values.clone()).map_err(|error| {
            let message = with_common_keys(serde_message(&error.message()));
            match culprit(&self.values, &message).filter(|_| !self.lines.is_empty()) {
                Some(key) => {
                    // Some messages begin with the key themselves.
                    let message = message.strip_prefix(&format!("{key}: ")).unwrap_or(&message);
                    self.wrong(key, &format!(": {message}"))
                }
                None => format!("line {}: {}{message}", self.line, self.called),
            }
        })
    }
}

/// The message about an unknown key, with the keys that any layer has.
fn with_common_keys(message: String) -> String {
    let common = format!("`name`, `from`, `{}`", LayerScales::KEYS.join("`, `"));
    match message.strip_suffix(", there are no fields") {
        Some(message) => format!("{message}, expected `name` or `from`"),
        None if message.starts_with("unknown field") => format!("{message}, {common}"),
        None => message,
    }
}

/// The key that a layer's error is about: without it there would be another error, or none.
fn culprit<'a>(values: &'a toml::Table, message: &str) -> Option<&'a String> {
    let without = |key: &&String| {
        let mut fewer = values.clone();
        fewer.remove(*key);
        LayerKind::deserialize(fewer)
            .err()
            .is_none_or(|error| with_common_keys(serde_message(&error.message())) != message)
    };
    // Without its kind a layer always has another error.
    let (kind, others): (Vec<_>, Vec<_>) = values.keys().partition(|key| *key == "kind");
    others.into_iter().chain(kind).find(|key| !message.starts_with("missing field") && without(key))
}
