//! Finds the pictures of a folder and their labels.

use std::collections::HashSet;
use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};

use super::{Dataset, Item, decode, split};
use crate::error::{Error, Result};

const EXTENSIONS: [&str; 6] = ["jpg", "jpeg", "png", "webp", "bmp", "gif"];
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
/// or `train` and `val` (or `test`) with either inside. Hidden files and files that are no pictures are passed over.
///
/// # Errors
/// [`Error::Input`] if there is no such folder, it holds no pictures, fewer than two classes, names that give no class,
/// or a class with too few pictures to divide; [`Error::Io`] if it cannot be listed.
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
    let pictures = labelled(&train_dir, dir)?;
    let classes = match &options.classes {
        Some(classes) => classes.clone(),
        None => classes_of(&pictures, &train_dir)?,
    };
    let items = numbered(pictures, &classes, &train_dir)?;
    let (train, val) = match options.val.clone().or(own_val) {
        Some(val_dir) => (items, numbered(labelled(&val_dir, dir)?, &classes, &val_dir)?),
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
    Ok(Dataset { root: dir.to_path_buf(), classes, train, val })
}

/// All labelled pictures in `dir`, laid out as for [`scan`], with the numbers of `classes`: a checkpoint's. Of a folder
/// that is divided into `train` and `val` (or `test`) the latter.
///
/// # Errors
/// [`Error::Input`] as [`scan`], and for a class that is not among `classes`.
pub fn scan_labelled(dir: &Path, classes: &[String]) -> Result<Vec<Item>> {
    let dir = divided(dir)?.map_or(dir.to_path_buf(), |(_, val)| val);
    numbered(labelled(&dir, &dir)?, classes, &dir)
}

/// All pictures in `dir` and the folders inside, told from other files as [`scan`] does, in the order of their paths;
/// for those without labels.
///
/// # Errors
/// [`Error::Input`] if there is none; [`Error::Io`] if the folder cannot be listed.
pub fn pictures(dir: &Path) -> Result<Vec<PathBuf>> {
    let mut pictures = Vec::new();
    Walk { class: String::new(), visited: HashSet::new(), pictures: &mut pictures }.folder(dir, "")?;
    if pictures.is_empty() {
        return Err(Error::input(format!(
            "{}: no pictures; expected JPEG, PNG, WebP, BMP or GIF files",
            dir.display()
        )));
    }
    pictures.sort_by(|a, b| a.relative.cmp(&b.relative));
    Ok(pictures.into_iter().map(|picture| picture.path).collect())
}

/// A picture with the name of its class.
struct Labelled {
    path: PathBuf,
    relative: String,
    class: String,
}

/// `dir/train` with `dir/val` or else `dir/test`, if they are there.
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
            let train = dir.join("train");
            let val = ["val", "test"].map(|name| dir.join(name)).into_iter().find(|val| val.is_dir());
            Ok(val.filter(|_| train.is_dir()).map(|val| (train, val)))
        }
    }
}

/// The pictures in `dir` by class; their relative paths begin at `root`.
fn labelled(dir: &Path, root: &Path) -> Result<Vec<Labelled>> {
    divided(dir)?; // for its errors: a validation folder may be missing too
    let prefix: String = match dir.strip_prefix(root) {
        Ok(below) => below.iter().map(|name| name.to_string_lossy() + "/").collect(),
        Err(_) => format!("{}/", dir.display()),
    };
    let mut pictures = Vec::new();
    let (folders, files): (Vec<_>, Vec<_>) = entries(dir)?.into_iter().partition(|entry| entry.folder);
    for folder in folders {
        let mut walk = Walk { class: folder.name.clone(), visited: HashSet::new(), pictures: &mut pictures };
        walk.folder(&folder.path, &format!("{prefix}{}", folder.name))?;
    }
    if pictures.is_empty() {
        let files: Vec<Entry> = files.into_iter().filter(Entry::is_picture).collect();
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
        pictures.extend(files.into_iter().filter_map(|file| {
            let class = class_of(&file.name)?.to_string();
            Some(Labelled { path: file.path, relative: format!("{prefix}{}", file.name), class })
        }));
    }
    if pictures.is_empty() {
        return Err(Error::input(format!(
            "{}: no pictures; expected JPEG, PNG, WebP, BMP or GIF files ({LAYOUTS}). \
             Put some there, or draw a practice set: convoy sample {0}",
            dir.display()
        )));
    }
    pictures.sort_by(|a, b| a.relative.cmp(&b.relative));
    Ok(pictures)
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
        .map(|Labelled { path, relative, class }| match classes.iter().position(|known| *known == class) {
            Some(number) => Ok(Item { path, relative, class: number as u32 }),
            None => Err(Error::input(format!(
                "{}: class '{class}' (of {relative}) is not among the {} known ones ({}). Rename or remove it",
                dir.display(),
                classes.len(),
                classes.iter().take(10).cloned().collect::<Vec<_>>().join(", "),
            ))),
        })
        .collect()
}

fn plural(pictures: usize) -> String {
    format!("{pictures} picture{}", if pictures == 1 { "" } else { "s" })
}

/// Something in a folder that is not hidden.
struct Entry {
    path: PathBuf,
    name: String,
    folder: bool,
}

impl Entry {
    /// Whether the file is taken for a picture: by a known extension, else by its first bytes. What it really is shows
    /// when it is decoded.
    fn is_picture(&self) -> bool {
        let extension = self.path.extension().unwrap_or_default();
        EXTENSIONS.iter().any(|known| extension.eq_ignore_ascii_case(known)) || {
            let mut begin = Vec::with_capacity(decode::MAGIC_BYTES);
            let read = File::open(&self.path)
                .and_then(|file| file.take(decode::MAGIC_BYTES as u64).read_to_end(&mut begin))
                .is_ok();
            read && decode::format(&begin).is_ok()
        }
    }
}

/// The folders and files in `dir`, through symbolic links, sorted by name. A dangling link counts as a file, so that a
/// picture that has gone is reported; pipes, sockets and devices are left out, for reading one could block.
fn entries(dir: &Path) -> Result<Vec<Entry>> {
    let failed = || Error::io("cannot list the folder", dir);
    let mut entries = Vec::new();
    for entry in fs::read_dir(dir).map_err(failed())? {
        let entry = entry.map_err(failed())?;
        let (path, name) = (entry.path(), entry.file_name().to_string_lossy().into_owned());
        let mut kind = entry.file_type().map_err(failed())?;
        if kind.is_symlink() {
            kind = fs::metadata(&path).map_or(kind, |target| target.file_type());
        }
        if !name.starts_with('.') && (kind.is_dir() || kind.is_file() || kind.is_symlink()) {
            entries.push(Entry { path, name, folder: kind.is_dir() });
        }
    }
    entries.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(entries)
}

/// Collects the pictures below a class's folder.
struct Walk<'a> {
    class: String,
    /// Real paths of the folders that were walked: symbolic links may form loops.
    visited: HashSet<PathBuf>,
    pictures: &'a mut Vec<Labelled>,
}

impl Walk<'_> {
    fn folder(&mut self, dir: &Path, relative: &str) -> Result<()> {
        let real = dir.canonicalize().map_err(Error::io("cannot read the folder", dir))?;
        // A link to a folder above would bring in the other classes.
        let above = dir.parent().and_then(|parent| parent.canonicalize().ok()).is_some_and(|at| at.starts_with(&real));
        if above || !self.visited.insert(real) {
            return Ok(());
        }
        for entry in entries(dir)? {
            let relative = format!("{relative}/{}", entry.name);
            if entry.folder {
                self.folder(&entry.path, &relative)?;
            } else if entry.is_picture() {
                self.pictures.push(Labelled { path: entry.path, relative, class: self.class.clone() });
            }
        }
        Ok(())
    }
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
        let measured = scan_labelled(dir.path(), &dataset.classes).unwrap();
        assert_eq!(relatives(&measured), ["cat.9.jpg", "dog.9.jpg"]);
    }

    #[test]
    fn a_validation_folder_replaces_the_split() {
        let (dir, val) = (folder(&["cat.0.jpg", "dog.0.jpg"]), folder(&["dog/1.jpg"]));
        let dataset = scan(dir.path(), &ScanOptions { val: Some(val.path().into()), ..options() }).unwrap();
        assert_eq!((dataset.train.len(), dataset.val.len(), dataset.val[0].class), (2, 1, 1));
        let foreign = folder(&["bird/1.jpg"]);
        let message = refusal(dir.path(), &ScanOptions { val: Some(foreign.path().into()), ..options() });
        assert!(message.contains("class 'bird' (of") && message.contains("cat, dog"), "{message}");
        let message = refusal(dir.path(), &ScanOptions { val: Some("/no/such".into()), ..options() });
        assert!(message.starts_with("/no/such: no such folder"), "{message}");
    }

    #[test]
    fn labels_follow_a_checkpoints_classes() {
        let dir = folder(&["dog/1.jpg", "dog/2.jpg"]);
        let items = scan_labelled(dir.path(), &["zebra".into(), "dog".into()]).unwrap();
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
