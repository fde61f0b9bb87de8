//! How a folder says which class each of its pictures is of.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use super::label_file::{self, LABELS};
use super::walk::{Entry, Picture, Walk, entries};
use crate::error::{Error, Result};

/// Folders beside `train` that hold the validation pictures, the first that is there.
const VALIDATION: [&str; 4] = ["val", "valid", "validation", "test"];
/// Begins the relative paths of validation pictures that lie outside the folder: no name inside does, and a run can be resumed
/// after they were moved.
const OUTSIDE: &str = "../val/";
/// For messages.
pub(super) const LAYOUTS: &str =
    "a folder per class, files whose names begin with the class, like cat.0.jpg, or a labels.csv of path,label";

/// Where the classes come from.
#[derive(Clone, Copy, PartialEq, Eq, Debug, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Labels {
    /// Each class has a folder.
    Folders,
    /// A file's name begins with its class.
    FileNames,
    /// A file `labels.csv` names the class of each picture.
    LabelFile,
}

/// A picture with the name of its class.
pub(super) struct Labelled {
    pub picture: Picture,
    pub class: Arc<str>,
}

/// What a folder holds in one of the layouts.
pub(super) struct Found {
    /// Sorted by their relative paths.
    pub pictures: Vec<Labelled>,
    /// Which layout it is.
    pub labels: Labels,
    /// What does not belong to that layout.
    pub notes: Vec<String>,
}

/// An error if there is no such folder.
fn check_folder(dir: &Path) -> Result<()> {
    match fs::metadata(dir) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Err(Error::input(format!(
            "{}: no such folder; expected a folder of pictures ({LAYOUTS}). \
             Check the path, or draw a practice set there: convoy sample {0}",
            dir.display()
        ))),
        Err(error) => Err(Error::io("cannot read the folder", dir)(error)),
        Ok(found) if !found.is_dir() => Err(Error::input(format!(
            "{}: this is a file; expected a folder of pictures ({LAYOUTS}). Give the folder that holds them",
            dir.display()
        ))),
        Ok(_) => Ok(()),
    }
}

/// `dir/train` with the first of [`VALIDATION`], if they are there.
pub(super) fn divided(dir: &Path) -> Result<Option<(PathBuf, PathBuf)>> {
    check_folder(dir)?;
    let folders: Vec<Entry> = entries(dir)?.into_iter().filter(|entry| entry.folder).collect();
    let folder = |name: &str| folders.iter().find(|folder| folder.name.eq_ignore_ascii_case(name));
    let val = VALIDATION.into_iter().find_map(folder);
    Ok(folder("train").zip(val).map(|(train, val)| (train.path.clone(), val.path.clone())))
}

/// What is said of folders and pictures that stand beside those of [`divided`].
pub(super) fn beside(dir: &Path, taken: [&Path; 2]) -> Result<Option<String>> {
    let other = |entry: &Entry| match entry.folder {
        true => !taken.contains(&entry.path.as_path()),
        false => entry.is_picture(),
    };
    let names: Vec<String> = entries(dir)?.into_iter().filter(other).map(|entry| entry.name).collect();
    let [train, val] = taken.map(|path| path.file_name().unwrap_or_default().display().to_string());
    Ok((!names.is_empty()).then(|| {
        format!("{}: left out what is beside the folders {train} and {val}: {}", dir.display(), listed(names.iter()))
    }))
}

/// The path from `root` to a folder inside it, however the two are written.
fn below(dir: &Path, root: &Path) -> Option<PathBuf> {
    let inside = |dir: &Path, root: &Path| {
        let path = dir.strip_prefix(root).ok()?;
        path.components().all(|part| matches!(part, Component::Normal(_))).then(|| path.to_path_buf())
    };
    inside(dir, root).or_else(|| inside(&dir.canonicalize().ok()?, &root.canonicalize().ok()?))
}

/// The pictures in `dir` by class, without those in the folder `except`; their relative paths begin at `root`.
pub(super) fn labelled(dir: &Path, root: &Path, except: Option<&Path>) -> Result<Found> {
    check_folder(dir)?; // a validation folder may be missing too
    let prefix: String = match below(dir, root) {
        Some(path) => path.iter().map(|name| name.to_string_lossy() + "/").collect(),
        None => OUTSIDE.into(),
    };
    // Beside the pictures, or beside the folders `train` and `val`.
    let of_root = prefix != OUTSIDE && !prefix.is_empty() && root.join(LABELS).is_file();
    let mut found = if dir.join(LABELS).is_file() {
        by_label_file(dir, dir, &prefix, "", except)?
    } else if of_root {
        by_label_file(root, dir, "", &prefix, except)?
    } else {
        by_place(dir, &prefix, except)?
    };
    if found.pictures.is_empty() {
        return Err(Error::input(format!(
            "{}: no pictures; expected JPEG, PNG, WebP, BMP or GIF files ({LAYOUTS}). \
             Put some there, or draw a practice set: convoy sample {0}",
            dir.display()
        )));
    }
    if let Some(Labelled { class, .. }) = found.pictures.iter().find(|picture| picture.class.contains(char::is_control))
    {
        return Err(Error::input(format!(
            "{}: the class name '{}' has control characters; rename it",
            dir.display(),
            class.escape_debug()
        )));
    }
    found.pictures.sort_by(|a, b| a.picture.relative.cmp(&b.picture.relative));
    Ok(found)
}

/// The pictures in `dir` that `home`'s label file names by paths that begin with `inside`; `prefix` goes in front of these paths.
fn by_label_file(home: &Path, dir: &Path, prefix: &str, inside: &str, except: Option<&Path>) -> Result<Found> {
    let file = home.join(LABELS);
    let mut labels = label_file::read(&file)?;
    if let Some(first) = labels.keys().next()
        && !labels.keys().any(|path| home.join(path).exists())
    {
        return Err(Error::input(format!(
            "{}: none of the files that it names is there, such as {first}; expected lines path,label, the paths from {} on",
            file.display(),
            home.display()
        )));
    }
    labels.retain(|path, _| path.starts_with(inside));
    if labels.is_empty() {
        return Err(Error::input(format!(
            "{}: names no picture in {}; expected lines path,label, such as cats/1.jpg,cat. Write some, or remove the file",
            file.display(),
            dir.display()
        )));
    }
    // Pictures that it does not name have no class.
    let mut walk = Walk::except(except);
    let mut others = walk.files(dir, inside.trim_end_matches('/'))?;
    others.retain(|picture| !labels.contains_key(picture.relative.trim_start_matches('/')));
    let notes = others.first().map(|first| {
        format!(
            "{}: left out {} that {LABELS} does not name, such as {}; add them there to use them",
            dir.display(),
            plural(others.len()),
            first.path.strip_prefix(dir).unwrap_or(&first.path).display()
        )
    });
    let except = except.and_then(|folder| folder.canonicalize().ok());
    let excepted = |path: &Path| {
        except.as_ref().is_some_and(|except| path.canonicalize().is_ok_and(|real| real.starts_with(except)))
    };
    let picture = |(path, class): (String, String)| {
        let picture = Picture { path: home.join(&path), relative: format!("{prefix}{path}") };
        (!excepted(&picture.path)).then_some(Labelled { picture, class: class.into() })
    };
    let pictures = labels.into_iter().filter_map(picture).collect();
    let notes = notes.into_iter().chain(unlisted(&walk.unlisted)).collect();
    Ok(Found { pictures, labels: Labels::LabelFile, notes })
}

/// The pictures in `dir` by their folders or their names.
fn by_place(dir: &Path, prefix: &str, except: Option<&Path>) -> Result<Found> {
    let (folders, files): (Vec<_>, Vec<_>) = entries(dir)?.into_iter().partition(|entry| entry.folder);
    let (mut in_folders, mut locked, mut empty) = (Vec::new(), Vec::new(), Vec::new());
    for Entry { path, name: class, .. } in folders {
        let mut walk = Walk::except(except);
        let pictures = walk.files(&path, &format!("{prefix}{class}"))?;
        let excepted = path.canonicalize().is_ok_and(|real| walk.leaves_out(&real));
        if pictures.is_empty() && walk.unlisted.is_empty() && !excepted {
            empty.push(class.clone());
        }
        locked.append(&mut walk.unlisted);
        let class = Arc::from(class);
        in_folders.extend(pictures.into_iter().map(|picture| Labelled { picture, class: Arc::clone(&class) }));
    }
    let files: Vec<Entry> = files.into_iter().filter(Entry::is_picture).collect();
    let by_folder = in_folders.iter().map(|picture| &picture.class[..]).collect::<BTreeSet<_>>();
    let by_name = files.iter().filter_map(|file| class_of(&file.name)).collect::<BTreeSet<_>>();
    let note = match (by_folder.len(), by_name.len()) {
        // One folder of pictures makes no classes, names do: it is a stray one.
        (1, 2..) => {
            let note = format!(
                "{}: left out {} in the folder '{}', for the names of the files beside it are the classes",
                dir.display(),
                plural(in_folders.len()),
                by_folder.first().unwrap_or(&"")
            );
            let pictures = by_file_name(dir, prefix, files)?;
            let notes = [note].into_iter().chain(unlisted(&locked)).collect();
            return Ok(Found { pictures, labels: Labels::FileNames, notes });
        }
        (2.., 2..) => {
            return Err(Error::input(format!(
                "{}: pictures in {} folders ({}) and {} beside them ({}, ..); expected one or the other: {LAYOUTS}. \
                 Move one kind elsewhere",
                dir.display(),
                by_folder.len(),
                listed(by_folder.iter()),
                plural(files.len()),
                files[0].name
            )));
        }
        (0, _) => {
            let pictures = by_file_name(dir, prefix, files)?;
            let notes = unlisted(&locked).into_iter().collect();
            return Ok(Found { pictures, labels: Labels::FileNames, notes });
        }
        _ => files.first().map(|first| {
            format!(
                "{}: left out {} beside the classes' folders, such as {}; put them into a class's folder to use them",
                dir.display(),
                plural(files.len()),
                first.name
            )
        }),
    };
    let empty = (!empty.is_empty())
        .then(|| format!("{}: no pictures in {}, which makes no class", dir.display(), listed(empty.iter())));
    let notes = note.into_iter().chain(empty).chain(unlisted(&locked)).collect();
    Ok(Found { pictures: in_folders, labels: Labels::Folders, notes })
}

/// What is said of folders that may not be listed.
fn unlisted(folders: &[PathBuf]) -> Option<String> {
    let first = folders.first()?;
    let more = match folders.len() {
        1 => String::new(),
        n => format!(" and {} more", n - 1),
    };
    Some(format!("left out the folder {}{more}: permission denied", first.display()))
}

/// Pictures labelled by their names.
fn by_file_name(dir: &Path, prefix: &str, files: Vec<Entry>) -> Result<Vec<Labelled>> {
    let nameless: Vec<&Entry> = files.iter().filter(|file| class_of(&file.name).is_none()).collect();
    if let Some(first) = nameless.first() {
        return Err(Error::input(format!(
            "{}: {} of {} whose name gives no class, such as '{}'; expected {LAYOUTS}. Rename or remove them",
            dir.display(),
            nameless.len(),
            plural(files.len()),
            first.name
        )));
    }
    let mut classes = BTreeSet::<Arc<str>>::new();
    let label = |Entry { path, name, .. }: Entry| {
        let class = class_of(&name)?;
        let class = classes.get(class).cloned().unwrap_or_else(|| {
            let class = Arc::from(class);
            classes.insert(Arc::clone(&class));
            class
        });
        Some(Labelled { picture: Picture { path, relative: format!("{prefix}{name}") }, class })
    };
    Ok(files.into_iter().filter_map(label).collect())
}

/// The class that a file's name begins with: the letters up to the first `.`, `_`, `-` or digit. What stands between
/// the last letter and that place is not part of it: `cat (7).jpg` is a `cat`.
fn class_of(name: &str) -> Option<&str> {
    let end = name.find(|c: char| matches!(c, '.' | '_' | '-') || c.is_numeric()).unwrap_or(name.len());
    let class = name[..end].trim_end_matches(|c: char| !c.is_alphabetic() && stands_between(c));
    class.starts_with(char::is_alphabetic).then_some(class)
}

/// Blanks and punctuation. Not the marks that many scripts write vowels, tones and accents with: they are no letters, but of the word.
fn stands_between(c: char) -> bool {
    let punctuation = ['\u{2000}'..='\u{206F}', '\u{3000}'..='\u{303F}', '\u{FF00}'..='\u{FF65}'];
    c.is_ascii() || c.is_whitespace() || punctuation.iter().any(|range| range.contains(&c))
}

/// The first of some names.
pub(super) fn listed(names: impl ExactSizeIterator<Item = impl AsRef<str>>) -> String {
    const SHOWN: usize = 10;
    let more = if names.len() > SHOWN { ", .." } else { "" };
    names.take(SHOWN).map(|name| name.as_ref().to_string()).collect::<Vec<_>>().join(", ") + more
}

pub(super) fn plural(pictures: usize) -> String {
    format!("{pictures} picture{}", if pictures == 1 { "" } else { "s" })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_class_in_a_name() {
        let cases = [
            ("cat.0.jpg", Some("cat")),
            ("Чихуахуа_12.png", Some("Чихуахуа")),
            ("犬3.jpg", Some("犬")),
            ("cat (7).jpg", Some("cat")),
            ("golden retriever-1.jpg", Some("golden retriever")),
            ("owl", Some("owl")),
            ("0001.jpg", None),
            ("_cat.jpg", None),
            ("(cat).jpg", None),
            // A tone mark, an accent of its own: parts of the words.
            ("\u{E1B}\u{E39}\u{E48}_1.jpg", Some("\u{E1B}\u{E39}\u{E48}")),
            ("cafe\u{301}_1.jpg", Some("cafe\u{301}")),
            ("猫（1）.jpg", Some("猫")),
        ];
        for (name, class) in cases {
            assert_eq!(class_of(name), class, "{name}");
        }
    }
}
