//! What a data set's pictures are: their sizes and formats, what cannot be read, and which of them are the same.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};

use rayon::prelude::*;
use xxhash_rust::xxh3::xxh3_128_with_seed;

use super::decode::{caught, memory_of, read};
use super::format::Format;
use super::memory::Memory;
use super::pixels::{Damage, Pixels};
use super::{Dataset, Item, Skipped};

/// What is known of all pictures of a data set once they were decoded. Items are numbered training pictures first.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Inspection {
    /// Width and height of each picture that can be read, upright, sorted by the shorter side.
    pub sizes: Vec<[usize; 2]>,
    /// Pictures by format.
    pub formats: BTreeMap<String, usize>,
    /// Pictures that cannot be read.
    pub unreadable: Vec<Skipped>,
    /// Pictures of which only a part can be read; they are used.
    pub damaged: Vec<Skipped>,
    /// Pictures that are in more than one file.
    pub duplicates: Vec<Duplicate>,
}

/// Files that hold the same picture: the same pixels, whatever else they say.
#[derive(Clone, PartialEq, Eq, Debug, serde::Serialize)]
pub struct Duplicate {
    /// Those to train on, their paths below the folder.
    pub train: Vec<String>,
    /// Those to validate on. With one on either side, validation asks for what may have been learnt by heart.
    pub val: Vec<String>,
    /// Whether they are of different classes: one label at least is wrong.
    pub labels_differ: bool,
}

/// Decodes every picture of `dataset`, on all processors; `observe` is told how many are done, from any thread.
pub fn inspect(dataset: &Dataset, observe: impl Fn(usize) + Sync) -> Inspection {
    let items: Vec<&Item> = dataset.train.iter().chain(&*dataset.val).collect();
    let (memory, done) = (Memory::new(), AtomicUsize::new(0));
    let look = |item: &&Item| {
        let seen = Seen::of(&item.path, &memory);
        observe(done.fetch_add(1, Ordering::Relaxed) + 1);
        seen
    };
    let seen: Vec<Result<Seen, String>> = items.par_iter().map(look).collect();

    let (mut sizes, mut formats, mut same) = (Vec::new(), BTreeMap::new(), HashMap::<u128, Vec<usize>>::new());
    let (mut unreadable, mut damaged) = (Vec::new(), Vec::new());
    for (item, seen) in seen.into_iter().enumerate() {
        let skipped = |reason: String| Skipped { item, relative: items[item].relative.clone(), reason };
        match seen {
            Ok(seen) => {
                sizes.push(seen.size);
                *formats.entry(seen.format.to_string()).or_default() += 1;
                same.entry(seen.hash).or_default().push(item);
                damaged.extend(seen.damage.map(|damage| skipped(damage.to_string())));
            }
            Err(reason) => unreadable.push(skipped(reason)),
        }
    }
    sizes.sort_by_key(|&[width, height]| (width.min(height), width.max(height)));
    let mut same: Vec<Vec<usize>> = same.into_values().filter(|files| files.len() > 1).collect();
    same.sort();
    let duplicate = |files: Vec<usize>| {
        let relative = |&item: &usize| items[item].relative.clone();
        let (train, val): (Vec<usize>, Vec<usize>) = files.iter().partition(|&&item| item < dataset.train.len());
        Duplicate {
            labels_differ: files.iter().any(|&item| items[item].class != items[files[0]].class),
            train: train.iter().map(relative).collect(),
            val: val.iter().map(relative).collect(),
        }
    };
    Inspection { sizes, formats, unreadable, damaged, duplicates: same.into_iter().map(duplicate).collect() }
}

/// A picture as a file holds it.
struct Seen {
    size: [usize; 2],
    format: Format,
    /// Of size and pixels.
    hash: u128,
    damage: Option<Damage>,
}

impl Seen {
    fn of(path: &Path, memory: &Memory) -> Result<Seen, String> {
        let mut bytes = Vec::new();
        let _file = read(path, &mut bytes, memory)?;
        let _held = memory.pictures.take(memory_of(&bytes));
        let picture = caught(|| Pixels::read(&bytes))?;
        Ok(Seen {
            size: [picture.width, picture.height],
            format: Format::of(&bytes)?,
            hash: xxh3_128_with_seed(&picture.rgb, picture.width as u64),
            damage: picture.damage,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::{ScanOptions, scan};
    use image::{Rgb, RgbImage};

    #[test]
    fn sizes_faults_and_duplicates() {
        let dir = tempfile::tempdir().unwrap();
        let draw = |name: &str, size: [u32; 2], value: u8| {
            let path = dir.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            RgbImage::from_pixel(size[0], size[1], Rgb([value, 0, 9])).save(path).unwrap();
        };
        draw("train/cat.0.png", [4, 6], 1);
        draw("train/cat.1.bmp", [4, 6], 1); // the same pixels in another format
        draw("train/dog.0.png", [6, 4], 1); // as many of the same colour, but not the same
        draw("train/dog.1.png", [9, 9], 2);
        draw("val/cat.9.png", [9, 9], 2); // a dog in training
        draw("val/dog.9.png", [5, 3], 7);
        std::fs::write(dir.path().join("val/cat.8.jpg"), "Hello").unwrap();
        let dataset = scan(dir.path(), &ScanOptions { split: 0.5, seed: 0, val: None, classes: None }).unwrap();
        let most = AtomicUsize::new(0);
        let seen = inspect(&dataset, |done| {
            most.fetch_max(done, Ordering::Relaxed);
        });
        assert_eq!(most.into_inner(), 7);
        assert_eq!(seen.sizes, [[5, 3], [4, 6], [4, 6], [6, 4], [9, 9], [9, 9]]);
        assert_eq!(seen.formats, BTreeMap::from([("BMP".into(), 1), ("PNG".into(), 5)]));
        let faults: Vec<_> = seen.unreadable.iter().map(|fault| (&fault.relative[..], &fault.reason[..])).collect();
        assert_eq!(faults, [("val/cat.8.jpg", "not a picture: begins with 'Hello'")]);
        let duplicate = |train: &[&str], val: &[&str], labels_differ| Duplicate {
            train: train.iter().map(|path| path.to_string()).collect(),
            val: val.iter().map(|path| path.to_string()).collect(),
            labels_differ,
        };
        let expected = [
            duplicate(&["train/cat.0.png", "train/cat.1.bmp"], &[], false),
            duplicate(&["train/dog.1.png"], &["val/cat.9.png"], true),
        ];
        assert_eq!(seen.duplicates, expected);
    }
}
