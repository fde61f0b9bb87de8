//! What a cache keeps, and what it does with files that are spoilt.

use super::*;
use crate::data::{Batch, Loader, LoaderOptions};
use image::{Rgb, RgbImage};
use std::sync::Arc;
use tempfile::TempDir;

const SIZE: [usize; 2] = [4, 6];

/// A folder with `pictures`, the items in it, and room for a cache.
struct Place {
    home: TempDir,
    items: Arc<Vec<Item>>,
}

impl Place {
    fn new(n: usize) -> Place {
        let home = tempfile::tempdir().unwrap();
        std::fs::create_dir(home.path().join("pictures")).unwrap();
        let item = |i: usize| {
            let relative = format!("{i}.png");
            Item { path: home.path().join("pictures").join(&relative), relative, class: 0 }
        };
        let items: Vec<Item> = (0..n).map(item).collect();
        items.iter().enumerate().for_each(|(i, item)| draw(item, i as u8));
        Place { home, items: Arc::new(items) }
    }

    fn open(&self) -> Arc<PictureCache> {
        let place = super::Place::Folder(self.home.path().into());
        let pictures = self.home.path().join("pictures");
        let opened = PictureCache::open(&place, &pictures, SIZE, Resize::Stretch, self.items.len());
        let (cache, note) = opened.unwrap();
        assert_eq!(note, None);
        Arc::new(cache)
    }

    /// An epoch's batches.
    fn batches(&self, cache: Option<&Arc<PictureCache>>) -> Vec<Batch> {
        batches(&self.loader(cache))
    }

    fn loader(&self, cache: Option<&Arc<PictureCache>>) -> Loader {
        let options = LoaderOptions { batch: 8, size: SIZE, resize: Resize::Stretch, workers: 3 };
        Loader::with_cache(self.items.clone(), options, cache.cloned())
    }
}

fn draw(item: &Item, value: u8) {
    RgbImage::from_fn(9, 7, |x, y| Rgb([value, x as u8 * 20, y as u8 * 30])).save(&item.path).unwrap();
}

fn batches(loader: &Loader) -> Vec<Batch> {
    loader.batches().collect::<Result<_>>().unwrap()
}

#[test]
fn kept_pictures_are_the_same_and_their_files_are_not_read_again() {
    let place = Place::new(20);
    let expected = place.batches(None);
    let cache = place.open();
    let loader = place.loader(Some(&cache));
    assert_eq!(batches(&loader), expected);
    assert_eq!((cache.len(), cache.adds()), (20, true));
    // What is read now comes from the cache: the files hold something else, which a run does not see until its end.
    place.items.iter().for_each(|item| std::fs::write(&item.path, "no picture").unwrap());
    assert_eq!(batches(&loader), expected);
    assert!(loader.skipped().is_empty());
}

#[test]
fn another_process_finds_them_and_what_has_changed_is_decoded_anew() {
    let place = Place::new(20);
    let before = place.batches(Some(&place.open()));
    let cache = place.open();
    assert_eq!((cache.len(), place.batches(Some(&cache)) == before), (20, true));
    assert_eq!(cache.len(), 20, "nothing is added twice");
    drop(cache);
    // As large as before, with the time of before.
    let modified = std::fs::metadata(&place.items[3].path).unwrap().modified().unwrap();
    draw(&place.items[3], 200);
    File::options().write(true).open(&place.items[3].path).unwrap().set_modified(modified).unwrap();
    let expected = place.batches(None);
    assert_ne!(expected, before);
    assert!(cfg!(not(unix)) || place.batches(Some(&place.open())) == expected);
    // Another size or way of resizing is another file.
    let folder = super::Place::Folder(place.home.path().into());
    let pictures = place.home.path().join("pictures");
    let (other, _) = PictureCache::open(&folder, &pictures, SIZE, Resize::ShorterSide, 20).unwrap();
    assert!(other.is_empty() && other.path() != place.open().path());
}

/// Whatever a crash or a disk has left: any part of the file missing or changed.
#[test]
fn a_damaged_file_does_no_harm() {
    let place = Place::new(12);
    let cache = place.open();
    let expected = place.batches(Some(&cache));
    let path = cache.path().to_path_buf();
    drop(cache);
    let good = std::fs::read(&path).unwrap();
    let length = good.len();
    for cut in [0, 1, 4095, 4096, 4100, 4096 + 64 * 5, length - 72 * 3, length - 1] {
        std::fs::write(&path, &good[..cut]).unwrap();
        assert_eq!(place.batches(Some(&place.open())), expected, "cut to {cut} bytes");
        assert_eq!(place.batches(Some(&place.open())), expected, "cut to {cut} bytes, then filled");
    }
    for changed in [3, 4096 + 3, 4096 + 20, 4096 + 24, 4096 + 64 + 60, 4096 + 64 * 1024 + 5, length - 2] {
        let mut bytes = good.clone();
        bytes[changed] ^= 1;
        std::fs::write(&path, bytes).unwrap();
        assert_eq!(place.batches(Some(&place.open())), expected, "byte {changed} changed");
    }
}

#[test]
fn one_adds_and_others_read() {
    let place = Place::new(20);
    let (first, second) = (place.open(), place.open());
    assert_eq!((first.adds(), second.adds()), (true, false));
    let expected = place.batches(None);
    let reader = place.loader(Some(&second));
    assert_eq!(batches(&reader), expected);
    assert!(second.is_empty());
    assert_eq!(place.batches(Some(&first)), expected);
    assert_eq!((batches(&reader) == expected, second.len()), (true, 20));
    drop(first);
    second.refresh();
    assert!(second.adds(), "the one that is left goes on");
}

#[test]
fn unreadable_pictures_are_not_kept_and_damage_is_remembered() {
    let place = Place::new(4);
    std::fs::write(&place.items[1].path, "Hello").unwrap();
    let picture = RgbImage::from_fn(64, 64, |x, y| Rgb([(x * 37 + y * 101) as u8, (x * y) as u8, 9]));
    let mut jpeg = std::io::Cursor::new(Vec::new());
    picture.write_to(&mut jpeg, image::ImageFormat::Jpeg).unwrap();
    let jpeg = jpeg.into_inner();
    std::fs::write(&place.items[2].path, &jpeg[..jpeg.len() * 9 / 10]).unwrap();
    for kept in [0, 3] {
        let cache = place.open();
        assert_eq!(cache.len(), kept);
        let loader = place.loader(Some(&cache));
        let batches = batches(&loader);
        assert_eq!((batches[0].count, loader.skipped().len(), loader.damaged().len()), (3, 1, 1));
        assert!(loader.damaged()[0].reason.starts_with("truncated JPEG: "), "{:?}", loader.damaged());
    }
}

#[test]
fn a_file_of_changed_pictures_begins_anew() {
    let place = Place::new(2);
    for round in 0..600 {
        let cache = place.open();
        assert!(cache.len() <= 2 * 2 + SLOTS as usize);
        place.items.iter().for_each(|item| draw(item, (round % 251) as u8));
        place.batches(Some(&cache));
    }
    assert!(place.open().len() < 300);
}

#[test]
fn no_more_than_allowed_is_kept() {
    let place = Place::new(20);
    let mut cache = Arc::into_inner(place.open()).unwrap();
    cache.most = 5;
    let cache = Arc::new(cache);
    assert_eq!(place.batches(Some(&cache)), place.batches(None));
    assert_eq!(cache.len(), 5);
}
