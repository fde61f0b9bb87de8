//! Finds the pictures of a folder and their labels.

use std::collections::{BTreeSet, HashMap};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::layout::{Found, LAYOUTS, Labelled, beside, divided, labelled, listed, plural};
use super::walk::Picture;
use super::{Dataset, Item, split};
use crate::error::{Error, Result};

/// How [`scan`] labels and divides.
#[derive(Clone, Debug)]
pub struct ScanOptions {
    /// Share of each class to train on, between 0 and 1; the rest validates. Not used where there is a validation
    /// folder.
    pub split: f64,
    /// Decides, with the files' relative paths, which pictures validate.
    pub seed: u64,
    /// A folder of validation pictures, in place of the split.
    pub val: Option<PathBuf>,
    /// The classes and their order, where a checkpoint has fixed them; else they are those found, sorted.
    pub classes: Option<Vec<String>>,
}

/// The labelled pictures in `dir`, divided into training and validation. `dir` holds a folder per class (with folders
/// inside, if need be); or files whose names begin with the class: the letters up to the first `.`, `_`, `-` or digit;
/// or a `labels.csv` of lines `path,label`; or `train` and `val` (or `valid`, `validation`, `test`) with any of these
/// inside. Hidden files and files that are no
/// pictures are passed over; pictures that lie outside the layout are left out, and told in [`Dataset::notes`].
///
/// # Errors
/// [`Error::Input`] if there is no such folder, it holds no pictures, fewer than two classes, names that give no class,
/// pictures in both layouts, or a class with too few of them to divide; [`Error::Io`] if it cannot be listed.
pub fn scan(dir: &Path, options: &ScanOptions) -> Result<Dataset> {
    if !(options.split > 0.0 && options.split < 1.0) {
        return Err(Error::input(format!(
            "the split is {}; expected the share of the pictures to train on, between 0 and 1, such as 0.9",
            options.split
        )));
    }
    let (train_dir, own_val, others) = match divided(dir)? {
        Some((train, val)) => {
            let others = beside(dir, [&train, &val])?;
            (train, Some(val), others)
        }
        None => (dir.to_path_buf(), None, None),
    };
    let val_dir = options.val.clone().or(own_val);
    if let Some(val_dir) = val_dir.as_deref().filter(|val_dir| same(val_dir, &train_dir)) {
        return Err(Error::input(format!(
            "{}: this is the folder of the training pictures; expected other pictures to validate on. \
             Leave out --val to divide the folder by --split",
            val_dir.display()
        )));
    }
    if let Some(val_dir) = val_dir.as_deref().filter(|val_dir| contains(val_dir, &train_dir)) {
        return Err(Error::input(format!(
            "{}: the folder of the training pictures, {}, is inside; expected other pictures to validate on",
            val_dir.display(),
            train_dir.display()
        )));
    }
    let Found { pictures, labels, mut notes } = labelled(&train_dir, dir, val_dir.as_deref())?;
    notes.extend(others);
    let classes = match &options.classes {
        Some(classes) => classes.clone(),
        None => classes_of(&pictures, &train_dir)?,
    };
    let items = numbered(pictures, &classes, &train_dir)?;
    let (train, val) = match &val_dir {
        Some(val_dir) => {
            let found = labelled(val_dir, dir, None)?;
            notes.extend(found.notes);
            let val = numbered(found.pictures, &classes, val_dir)?;
            let counts = class_counts(&val, classes.len());
            let missing: Vec<&String> = classes.iter().zip(counts).filter(|(_, n)| *n == 0).map(|(c, _)| c).collect();
            if !missing.is_empty() {
                let (n, of, listed) = (missing.len(), classes.len(), listed(missing.iter()));
                notes.push(format!(
                    "{}: no pictures of {n} of the {of} classes ({listed}), so validation tells nothing of them",
                    val_dir.display()
                ));
            }
            (items, val)
        }
        None => {
            let counts = class_counts(&items, classes.len());
            if let Some(class) = (0..classes.len()).find(|&class| counts[class] < 2) {
                return Err(Error::input(format!(
                    "{}: class '{}' has {}; expected 2 or more, one to train on and one to validate. \
                     Add pictures or remove the class",
                    dir.display(),
                    classes[class],
                    plural(counts[class]),
                )));
            }
            split::split(items, options.split, options.seed)
        }
    };
    let (train, val) = (Arc::new(train), Arc::new(val));
    Ok(Dataset { root: dir.to_path_buf(), classes, train, val, labels, val_folder: val_dir, notes })
}

/// All labelled pictures in `dir`, laid out as for [`scan`], with the numbers of `classes`: a checkpoint's. Of a folder
/// that is divided into `train` and `val` (or `test`) the latter. Beside them what was left out, a line for each.
///
/// # Errors
/// [`Error::Input`] as [`scan`], and for a class that is not among `classes`.
pub fn scan_labelled(dir: &Path, classes: &[String]) -> Result<(Vec<Item>, Vec<String>)> {
    let dir = divided(dir)?.map_or(dir.to_path_buf(), |(_, val)| val);
    let Found { pictures, notes, .. } = labelled(&dir, &dir, None)?;
    Ok((numbered(pictures, classes, &dir)?, notes))
}

/// Pictures of each class.
pub fn class_counts(items: &[Item], classes: usize) -> Vec<usize> {
    let mut counts = vec![0; classes];
    items.iter().for_each(|item| counts[item.class as usize] += 1);
    counts
}

/// Whether both are there and the first is above the second.
fn contains(outer: &Path, inner: &Path) -> bool {
    matches!((outer.canonicalize(), inner.canonicalize()), (Ok(outer), Ok(inner)) if inner.starts_with(&outer))
}

/// Whether both are there and the same folder.
fn same(a: &Path, b: &Path) -> bool {
    matches!((a.canonicalize(), b.canonicalize()), (Ok(a), Ok(b)) if a == b)
}

/// The classes of the pictures, sorted; there must be two or more.
fn classes_of(pictures: &[Labelled], dir: &Path) -> Result<Vec<String>> {
    let classes: BTreeSet<&str> = pictures.iter().map(|picture| &*picture.class).collect();
    let classes: Vec<String> = classes.into_iter().map(String::from).collect();
    if let [only] = &classes[..] {
        let inside = dir.join(only);
        let advice = match inside.is_dir() {
            true => format!("If the classes are inside it, give {}", inside.display()),
            false => "Add pictures of another class".to_string(),
        };
        return Err(Error::input(format!(
            "{}: one class only, '{only}' ({}); expected 2 or more ({LAYOUTS}). {advice}",
            dir.display(),
            plural(pictures.len())
        )));
    }
    Ok(classes)
}

/// Replaces the names of the classes by their numbers in `classes`.
fn numbered(pictures: Vec<Labelled>, classes: &[String], dir: &Path) -> Result<Vec<Item>> {
    let numbers: HashMap<&str, u32> = classes.iter().map(String::as_str).zip(0..).collect();
    let item = |Labelled { picture: Picture { path, relative }, class }: Labelled| match numbers.get(&*class) {
        Some(&class) => Ok(Item { path, relative, class }),
        None => Err(Error::input(format!(
            "{}: class '{class}' (of {}) is not among the {} known ones ({}). Rename or remove it",
            dir.display(),
            path.display(),
            classes.len(),
            listed(classes.iter()),
        ))),
    };
    pictures.into_iter().map(item).collect()
}

#[cfg(test)]
mod tests;
