//! Finds the pictures of a folder and their labels.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Component, Path, PathBuf};

use super::walk::{Entry, Picture, Walk, entries};
use super::{Dataset, Item, split};
use crate::error::{Error, Result};

/// Folders beside `train` that hold the validation pictures, the first that is there.
const VALIDATION: [&str; 4] = ["val", "valid", "validation", "test"];
/// Begins the relative paths of validation pictures that lie outside the folder: no name inside does, and a run can be resumed
/// after they were moved.
const OUTSIDE: &str = "../val/";
const LAYOUTS: &str = "a folder per class, or files whose names begin with the class, like cat.0.jpg";

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
/// or `train` and `val` (or `valid`, `validation`, `test`) with either inside. Hidden files and files that are no
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
    let (train_dir, own_val) = match divided(dir)? {
        Some((train, val)) => (train, Some(val)),
        None => (dir.to_path_buf(), None),
    };
    let val_dir = options.val.clone().or(own_val);
    if let Some(val_dir) = val_dir.as_deref().filter(|val_dir| same(val_dir, &train_dir)) {
        return Err(Error::input(format!(
            "{}: this is the folder of the training pictures; expected other pictures to validate on. \
             Leave out --val to divide the folder by --split",
            val_dir.display()
        )));
    }
    let Found { pictures, mut notes } = labelled(&train_dir, dir, val_dir.as_deref())?;
    let classes = match &options.classes {
        Some(classes) => classes.clone(),
        None => classes_of(&pictures, &train_dir)?,
    };
    let items = numbered(pictures, &classes, &train_dir)?;
    let (train, val) = match val_dir {
        Some(val_dir) => {
            let found = labelled(&val_dir, dir, None)?;
            notes.extend(found.notes);
            let val = numbered(found.pictures, &classes, &val_dir)?;
            let missing = (0..classes.len()).filter(|&class| val.iter().all(|item| item.class as usize != class));
            let missing: Vec<&String> = missing.map(|class| &classes[class]).collect();
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
            let pictures_of = |class: usize| items.iter().filter(|item| item.class as usize == class).count();
            if let Some(class) = (0..classes.len()).find(|&class| pictures_of(class) < 2) {
                return Err(Error::input(format!(
                    "{}: class '{}' has {}; expected 2 or more, one to train on and one to validate. \
                     Add pictures or remove the class",
                    dir.display(),
                    classes[class],
                    plural(pictures_of(class)),
                )));
            }
            split::split(items, options.split, options.seed)
        }
    };
    Ok(Dataset { root: dir.to_path_buf(), classes, train, val, notes })
}

/// All labelled pictures in `dir`, laid out as for [`scan`], with the numbers of `classes`: a checkpoint's. Of a folder
/// that is divided into `train` and `val` (or `test`) the latter. Beside them what was left out, a line for each.
///
/// # Errors
/// [`Error::Input`] as [`scan`], and for a class that is not among `classes`.
pub fn scan_labelled(dir: &Path, classes: &[String]) -> Result<(Vec<Item>, Vec<String>)> {
    let dir = divided(dir)?.map_or(dir.to_path_buf(), |(_, val)| val);
    let Found { pictures, notes } = labelled(&dir, &dir, None)?;
    Ok((numbered(pictures, classes, &dir)?, notes))
}

/// A picture with the name of its class.
struct Labelled {
    picture: Picture,
    class: String,
}

/// What a folder holds in one of the two layouts.
struct Found {
    /// Sorted by their relative paths.
    pictures: Vec<Labelled>,
    /// What does not belong to that layout.
    notes: Vec<String>,
}

/// Whether both are there and the same folder.
fn same(a: &Path, b: &Path) -> bool {
    matches!((a.canonicalize(), b.canonicalize()), (Ok(a), Ok(b)) if a == b)
}

/// `dir/train` with the first of [`VALIDATION`], if they are there.
fn divided(dir: &Path) -> Result<Option<(PathBuf, PathBuf)>> {
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
        Ok(_) => {
            let folders: Vec<Entry> = entries(dir)?.into_iter().filter(|entry| entry.folder).collect();
            let folder = |name: &str| folders.iter().find(|folder| folder.name.eq_ignore_ascii_case(name));
            let val = VALIDATION.into_iter().find_map(folder);
            Ok(folder("train").zip(val).map(|(train, val)| (train.path.clone(), val.path.clone())))
        }
    }
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
fn labelled(dir: &Path, root: &Path, except: Option<&Path>) -> Result<Found> {
    divided(dir)?; // for its errors: a validation folder may be missing too
    let prefix: String = match below(dir, root) {
        Some(path) => path.iter().map(|name| name.to_string_lossy() + "/").collect(),
        None => OUTSIDE.into(),
    };
    let (folders, files): (Vec<_>, Vec<_>) = entries(dir)?.into_iter().partition(|entry| entry.folder);
    let mut in_folders = Vec::new();
    for Entry { path, name: class, .. } in folders {
        let pictures = Walk::except(except).files(&path, &format!("{prefix}{class}"))?;
        in_folders.extend(pictures.into_iter().map(|picture| Labelled { picture, class: class.clone() }));
    }
    let files: Vec<Entry> = files.into_iter().filter(Entry::is_picture).collect();
    let by_folder = in_folders.iter().map(|picture| &picture.class[..]).collect::<BTreeSet<_>>();
    let by_name = files.iter().filter_map(|file| class_of(&file.name)).collect::<BTreeSet<_>>();
    let (mut pictures, notes) = match (by_folder.len(), by_name.len()) {
        // One folder of pictures makes no classes, names do: it is a stray one.
        (1, 2..) => {
            let note = format!(
                "{}: left out {} in the folder '{}', for the names of the files beside it are the classes",
                dir.display(),
                plural(in_folders.len()),
                by_folder.first().unwrap_or(&"")
            );
            (by_file_name(dir, &prefix, files)?, vec![note])
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
        (0, _) => (by_file_name(dir, &prefix, files)?, Vec::new()),
        _ if files.is_empty() => (in_folders, Vec::new()),
        _ => {
            let (n, first) = (plural(files.len()), &files[0].name);
            let note = format!(
                "{}: left out {n} beside the classes' folders, such as {first}; put them into a class's folder to use them",
                dir.display()
            );
            (in_folders, vec![note])
        }
    };
    if pictures.is_empty() {
        return Err(Error::input(format!(
            "{}: no pictures; expected JPEG, PNG, WebP, BMP or GIF files ({LAYOUTS}). \
             Put some there, or draw a practice set: convoy sample {0}",
            dir.display()
        )));
    }
    if let Some(Labelled { class, .. }) = pictures.iter().find(|picture| picture.class.contains(char::is_control)) {
        return Err(Error::input(format!(
            "{}: the class name '{}' has control characters; rename it",
            dir.display(),
            class.escape_debug()
        )));
    }
    pictures.sort_by(|a, b| a.picture.relative.cmp(&b.picture.relative));
    Ok(Found { pictures, notes })
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
    let label = |Entry { path, name, .. }: Entry| {
        let class = class_of(&name)?.to_string();
        Some(Labelled { picture: Picture { path, relative: format!("{prefix}{name}") }, class })
    };
    Ok(files.into_iter().filter_map(label).collect())
}

/// The class that a file's name begins with: the letters up to the first `.`, `_`, `-` or digit. What stands between
/// the last letter and that place is not part of it: `cat (7).jpg` is a `cat`.
fn class_of(name: &str) -> Option<&str> {
    let end = name.find(|c: char| matches!(c, '.' | '_' | '-') || c.is_numeric()).unwrap_or(name.len());
    let class = name[..end].trim_end_matches(|c: char| !c.is_alphabetic());
    class.starts_with(char::is_alphabetic).then_some(class)
}

/// The classes of the pictures, sorted; there must be two or more.
fn classes_of(pictures: &[Labelled], dir: &Path) -> Result<Vec<String>> {
    let mut classes: Vec<String> = pictures.iter().map(|picture| picture.class.clone()).collect();
    classes.sort();
    classes.dedup();
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
    pictures
        .into_iter()
        .map(|Labelled { picture: Picture { path, relative }, class }| {
            match classes.iter().position(|known| *known == class) {
                Some(number) => Ok(Item { path, relative, class: number as u32 }),
                None => Err(Error::input(format!(
                    "{}: class '{class}' (of {}) is not among the {} known ones ({}). Rename or remove it",
                    dir.display(),
                    path.display(),
                    classes.len(),
                    listed(classes.iter()),
                ))),
            }
        })
        .collect()
}

/// The first of some names.
fn listed(names: impl ExactSizeIterator<Item = impl AsRef<str>>) -> String {
    const SHOWN: usize = 10;
    let more = if names.len() > SHOWN { ", .." } else { "" };
    names.take(SHOWN).map(|name| name.as_ref().to_string()).collect::<Vec<_>>().join(", ") + more
}

fn plural(pictures: usize) -> String {
    format!("{pictures} picture{}", if pictures == 1 { "" } else { "s" })
}

#[cfg(test)]
mod tests {
    use super::*;
    use tempfile::TempDir;

    /// A folder with files of these relative paths; they are pictures by name only.
    fn folder(files: &[&str]) -> TempDir {
        let dir = tempfile::tempdir().unwrap();
        for file in files {
            let path = dir.path().join(file);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, "not really a picture").unwrap();
        }
        dir
    }

    fn options() -> ScanOptions {
        ScanOptions { split: 0.5, seed: 1, val: None, classes: None }
    }

    fn relatives(items: &[Item]) -> Vec<&str> {
        items.iter().map(|item| &item.relative[..]).collect()
    }

    fn all(dataset: &Dataset) -> Vec<(&str, &str)> {
        let mut all: Vec<_> = dataset.train.iter().chain(&dataset.val).collect();
        all.sort_by_key(|item| &item.relative);
        all.iter().map(|item| (&item.relative[..], &dataset.classes[item.class as usize][..])).collect()
    }

    fn refusal(dir: &Path, options: &ScanOptions) -> String {
        let error = scan(dir, options).unwrap_err();
        assert_eq!(error.exit_code(), 2);
        let message = error.to_string();
        assert!(!message.contains('\n'), "{message}");
        message
    }

    #[test]
    fn a_folder_per_class_with_folders_inside() {
        let dir =
            folder(&["dog/1.JPG", "dog/more/deep/2.png", "cat/b.webp", "cat/a.jpeg", "notes/readme.txt", "stray.jpg"]);
        let dataset = scan(dir.path(), &options()).unwrap();
        assert_eq!(dataset.classes, ["cat", "dog"]);
        assert!(dataset.notes[0].contains("left out 1 picture beside the classes' folders, such as stray.jpg"));
        let expected =
            [("cat/a.jpeg", "cat"), ("cat/b.webp", "cat"), ("dog/1.JPG", "dog"), ("dog/more/deep/2.png", "dog")];
        assert_eq!(all(&dataset), expected);
    }

    #[test]
    fn file_names_that_begin_with_the_class() {
        let dir = folder(&["cat.0.jpg", "cat_1.png", "dog-17.bmp", "dog2.gif", ".dog.3.jpg", "labels.csv"]);
        let dataset = scan(dir.path(), &options()).unwrap();
        let expected = [("cat.0.jpg", "cat"), ("cat_1.png", "cat"), ("dog-17.bmp", "dog"), ("dog2.gif", "dog")];
        assert_eq!(all(&dataset), expected);
    }

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
        ];
        for (name, class) in cases {
            assert_eq!(class_of(name), class, "{name}");
        }
    }

    #[test]
    fn train_and_val_folders_with_either_layout_inside() {
        let dir = folder(&["train/cat/1.jpg", "train/dog/1.jpg", "val/cat.9.jpg", "val/dog.9.jpg", "test/cat.5.jpg"]);
        let dataset = scan(dir.path(), &options()).unwrap();
        assert_eq!(relatives(&dataset.train), ["train/cat/1.jpg", "train/dog/1.jpg"]);
        assert_eq!(relatives(&dataset.val), ["val/cat.9.jpg", "val/dog.9.jpg"]);
        let (measured, _) = scan_labelled(dir.path(), &dataset.classes).unwrap();
        assert_eq!(relatives(&measured), ["cat.9.jpg", "dog.9.jpg"]);
        let dir = folder(&["train/cat.1.jpg", "train/dog.1.jpg", "validation/cat.9.jpg"]);
        assert_eq!(relatives(&scan(dir.path(), &options()).unwrap().val), ["validation/cat.9.jpg"]);
        let dir = folder(&["Train/cat.1.jpg", "Train/dog.1.jpg", "VAL/cat.9.jpg"]);
        assert_eq!(relatives(&scan(dir.path(), &options()).unwrap().val), ["VAL/cat.9.jpg"]);
    }

    #[test]
    fn a_stray_folder_does_not_hide_the_files_beside_it() {
        let dir = folder(&["cat.0.jpg", "cat.1.jpg", "dog.0.jpg", "dog.1.jpg", "backup/cat.0.jpg"]);
        let dataset = scan(dir.path(), &options()).unwrap();
        assert_eq!(all(&dataset).len(), 4);
        assert!(dataset.notes[0].contains("left out 1 picture in the folder 'backup'"), "{:?}", dataset.notes);
        let both = folder(&["cat.0.jpg", "dog.0.jpg", "cat/1.jpg", "dog/1.jpg"]);
        let message = refusal(both.path(), &options());
        assert!(message.contains("pictures in 2 folders (cat, dog) and 2 pictures beside them (cat.0.jpg, ..)"));
    }

    #[test]
    fn a_validation_folder_inside_is_no_class() {
        let dir = folder(&["cat/1.jpg", "dog/1.jpg", "held out/cat.9.jpg"]);
        let val = Some(dir.path().join("held out"));
        let dataset = scan(dir.path(), &ScanOptions { val, ..options() }).unwrap();
        assert_eq!(
            (&dataset.classes[..], relatives(&dataset.val)),
            (&["cat".into(), "dog".into()][..], vec!["held out/cat.9.jpg"])
        );
        let message = refusal(dir.path(), &ScanOptions { val: Some(dir.path().join("dog/..")), ..options() });
        assert!(message.contains("this is the folder of the training pictures"), "{message}");
    }

    #[cfg(unix)]
    #[test]
    fn class_names_can_be_printed() {
        let message = refusal(folder(&["cat/1.jpg", "do\x1bg/1.jpg"]).path(), &options());
        assert!(message.ends_with("the class name 'do\\u{1b}g' has control characters; rename it"), "{message}");
    }

    #[test]
    fn a_validation_folder_replaces_the_split() {
        let (dir, val) = (folder(&["cat.0.jpg", "dog.0.jpg"]), folder(&["dog/1.jpg"]));
        let dataset = scan(dir.path(), &ScanOptions { val: Some(val.path().into()), ..options() }).unwrap();
        assert_eq!((dataset.train.len(), dataset.val.len(), dataset.val[0].class), (2, 1, 1));
        assert!(dataset.notes[0].contains("no pictures of 1 of the 2 classes (cat)"), "{:?}", dataset.notes);
        let foreign = folder(&["bird/1.jpg"]);
        let message = refusal(dir.path(), &ScanOptions { val: Some(foreign.path().into()), ..options() });
        assert!(message.contains("class 'bird' (of") && message.contains("cat, dog"), "{message}");
        let message = refusal(dir.path(), &ScanOptions { val: Some("/no/such".into()), ..options() });
        assert!(message.starts_with("/no/such: no such folder"), "{message}");
    }

    /// Where the validation pictures are does not show in their names, unless they are inside the folder; else a run could not
    /// be resumed after either was moved.
    #[test]
    fn names_do_not_say_where_the_validation_folder_is() {
        let place = folder(&["all/cat/1.jpg", "all/dog/1.jpg", "all/held/cat.9.jpg", "one/cat.9.jpg", "two/cat.9.jpg"]);
        let val_of = |val: &str| {
            let val = Some(place.path().join(val));
            let dataset = scan(&place.path().join("all"), &ScanOptions { val, ..options() }).unwrap();
            relatives(&dataset.val).join(" ")
        };
        for outside in ["one", "two", "all/../one"] {
            assert_eq!(val_of(outside), "../val/cat.9.jpg", "{outside}");
        }
        for inside in ["all/held", "one/../all/held", "all/cat/../held"] {
            assert_eq!(val_of(inside), "held/cat.9.jpg", "{inside}");
        }
    }

    #[test]
    fn labels_follow_a_checkpoints_classes() {
        let dir = folder(&["dog/1.jpg", "dog/2.jpg"]);
        let (items, _) = scan_labelled(dir.path(), &["zebra".into(), "dog".into()]).unwrap();
        assert_eq!(items.iter().map(|item| item.class).collect::<Vec<_>>(), [1, 1]);
    }

    #[test]
    fn files_of_unknown_extension_are_pictures_by_their_first_bytes() {
        let dir = folder(&["cat.0.jpg", "cat.1.jpg", "dog.0.jpg", "BMW.txt"]);
        fs::write(dir.path().join("dog1"), b"\x89PNG\r\n\x1a\n and so on").unwrap();
        fs::write(dir.path().join("BMW.txt"), b"BM, a text that begins like a bitmap").unwrap();
        let dataset = scan(dir.path(), &options()).unwrap();
        assert_eq!(all(&dataset).last(), Some(&("dog1", "dog")));
        assert_eq!(dataset.classes, ["cat", "dog"]);
    }

    #[cfg(unix)]
    #[test]
    fn links_are_followed_and_loops_end() {
        let dir = folder(&["cat/1.jpg", "cat/2.jpg", "dog/1.jpg", "dog/2.jpg"]);
        let elsewhere = folder(&["x/3.jpg"]);
        let link = |from: &Path, to: &str| std::os::unix::fs::symlink(from, dir.path().join(to)).unwrap();
        link(dir.path(), "cat/up");
        link(&dir.path().join("cat"), "cat/self");
        link(&elsewhere.path().join("x"), "dog/more");
        link(Path::new("/no/such/picture"), "dog/gone.jpg");
        let dataset = scan(dir.path(), &options()).unwrap();
        let names: Vec<_> = all(&dataset).into_iter().map(|(name, _)| name).collect();
        assert_eq!(names, ["cat/1.jpg", "cat/2.jpg", "dog/1.jpg", "dog/2.jpg", "dog/gone.jpg", "dog/more/3.jpg"]);
    }

    #[test]
    fn refusals_say_what_came_and_what_to_do() {
        let empty = folder(&[]);
        assert!(refusal(&empty.path().join("x"), &options()).contains("no such folder"));
        assert!(refusal(empty.path(), &options()).contains("no pictures"));
        let file = folder(&["cat.0.jpg"]);
        assert!(refusal(&file.path().join("cat.0.jpg"), &options()).contains("this is a file"));
        assert!(refusal(file.path(), &options()).contains("one class only, 'cat' (1 picture)"));
        let inside = folder(&["train/cat.0.jpg", "train/dog.0.jpg"]);
        assert!(refusal(inside.path(), &options()).contains("If the classes are inside it, give"));
        let nameless = folder(&["cat.0.jpg", "17.jpg"]);
        assert!(
            refusal(nameless.path(), &options())
                .contains("1 of 2 pictures whose name gives no class, such as '17.jpg'")
        );
        let few = folder(&["cat.0.jpg", "cat.1.jpg", "dog.0.jpg"]);
        assert!(refusal(few.path(), &options()).contains("class 'dog' has 1 picture;"));
        assert!(refusal(few.path(), &ScanOptions { split: 1.0, ..options() }).contains("the split is 1"));
    }
}
