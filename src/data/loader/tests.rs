//! The batches that a loader gives, whatever its workers do.

use super::*;
use crate::tensor::Data;
use image::{Rgb, RgbImage};
use std::fs;
use tempfile::TempDir;

/// `n` grey pictures of value = number, class = number % 2, and the folder they are in.
fn pictures(n: usize) -> (TempDir, Arc<Vec<Item>>) {
    let dir = tempfile::tempdir().unwrap();
    let item = |i: usize| {
        let relative = format!("{i}.png");
        let path = dir.path().join(&relative);
        RgbImage::from_pixel(5, 4, Rgb([i as u8; 3])).save(&path).unwrap();
        Item { path, relative, class: (i % 2) as u32 }
    };
    let items = (0..n).map(item).collect();
    (dir, Arc::new(items))
}

fn loader(items: &Arc<Vec<Item>>, workers: usize) -> Loader {
    let options = LoaderOptions { batch: 4, size: [2, 3], resize: Resize::Stretch, workers };
    Loader::new(items.clone(), options)
}

fn batches(loader: &Loader, order: &[usize], first: usize) -> Vec<Batch> {
    loader.epoch(order.to_vec(), first).collect::<Result<_>>().unwrap()
}

fn labels(batch: &Batch) -> &[u32] {
    match batch.labels.data() {
        Data::U32(labels) => labels,
        _ => panic!("labels are u32"),
    }
}

#[test]
fn batches_follow_the_order_and_the_last_is_filled_up() {
    let (_dir, items) = pictures(6);
    let batches = batches(&loader(&items, 2), &[5, 4, 3, 2, 1, 0], 0);
    assert_eq!(batches.len(), 2);
    assert_eq!(&batches[0].pictures.shape()[..], [4, 2, 3, 3]);
    let row: Vec<u8> = batches[0].pictures.bytes().chunks(18).map(|row| row[0]).collect();
    assert_eq!((row, labels(&batches[0]), batches[0].count), (vec![5, 4, 3, 2], &[1, 0, 1, 0][..], 4));
    assert_eq!(batches[1].items, [Some(1), Some(0), None, None]);
    assert_eq!((labels(&batches[1]), batches[1].count), (&[1, 0, IGNORE, IGNORE][..], 2));
    assert!(batches[1].pictures.bytes()[2 * 18..].iter().all(|&byte| byte == 0));
}

#[test]
fn workers_have_no_influence() {
    let (_dir, items) = pictures(50);
    let order: Vec<usize> = (0..50).map(|i| i * 7 % 50).collect();
    let expected = batches(&loader(&items, 1), &order, 0);
    for workers in [2, 3, 16] {
        let loader = loader(&items, workers);
        for _epoch in 0..2 {
            assert_eq!(batches(&loader, &order, 0), expected);
        }
        assert_eq!(batches(&loader, &order, 5), expected[5..]);
    }
    assert!(batches(&loader(&items, 2), &order, 13).is_empty());
    assert!(batches(&loader(&items, 2), &[], 0).is_empty());
}

#[test]
fn unreadable_pictures_are_skipped_and_remembered_once() {
    let (_dir, items) = pictures(8);
    fs::write(&items[6].path, "").unwrap();
    fs::write(&items[1].path, "Hello").unwrap();
    let loader = loader(&items, 3);
    let order: Vec<usize> = (0..8).collect();
    for _epoch in 0..2 {
        let batches = batches(&loader, &order, 0);
        assert_eq!((labels(&batches[0]), labels(&batches[1])), (&[0, IGNORE, 0, 1][..], &[0, 1, IGNORE, 1][..]));
        assert_eq!((batches[0].items[1], batches[0].count), (Some(1), 3));
        assert_eq!(&batches[0].pictures.bytes()[18..36], [0; 18]);
    }
    let skipped: Vec<_> = loader.skipped().into_iter().map(|s| (s.item, s.relative, s.reason)).collect();
    let hello = "not a picture: begins with 'Hello'";
    assert_eq!(skipped, [(1, "1.png".into(), hello.into()), (6, "6.png".into(), "empty file".into())]);
}

/// What others do to the files during a run: the places of the other pictures stay.
#[test]
fn files_that_go_or_change_between_epochs() {
    let (_dir, items) = pictures(8);
    let loader = loader(&items, 2);
    let order: Vec<usize> = (0..8).rev().collect();
    let before = batches(&loader, &order, 0);
    fs::remove_file(&items[5].path).unwrap();
    RgbImage::from_pixel(9, 2, Rgb([77; 3])).save(&items[3].path).unwrap();
    let after = batches(&loader, &order, 0);
    assert_eq!((labels(&before[0]), labels(&after[0])), (&[1, 0, 1, 0][..], &[1, 0, IGNORE, 0][..]));
    assert_eq!((&after[0].items, labels(&after[1])), (&before[0].items, labels(&before[1])));
    assert_eq!((before[1].pictures.bytes()[18], after[1].pictures.bytes()[18]), (4 - 2, 4 - 2));
    assert_eq!((before[1].pictures.bytes()[0], after[1].pictures.bytes()[0]), (3, 77));
    let [gone] = &loader.skipped()[..] else { panic!("{:?}", loader.skipped()) };
    assert!(gone.item == 5 && gone.reason.contains("no such file"), "{gone:?}");
}

#[test]
fn the_queue_is_bounded_and_ends_when_dropped() {
    let (_dir, items) = pictures(40);
    let loader = loader(&items, 2);
    let mut epoch = loader.epoch((0..40).collect(), 0);
    assert_eq!(epoch.len(), 10);
    assert!(epoch.next().is_some_and(|batch| batch.is_ok()));
    std::thread::sleep(std::time::Duration::from_millis(200));
    assert_eq!(locked(&epoch.queue.state).next, 16); // one batch taken, three at most in the queue
    let queue = Arc::downgrade(&epoch.queue);
    drop(epoch);
    assert!(queue.upgrade().is_none(), "a worker still holds the queue");
}
