//! When pictures that cannot be read are too many.

use crate::data::Item;

/// Share of a class's pictures that may be unreadable before a command's exit code says so.
const TOLERATED: f64 = 0.1;

/// Names the classes that lost more than a tenth of their pictures; `skipped` says of an item whether it is one of those.
pub fn lost_classes<'a>(
    classes: &[String],
    items: impl Iterator<Item = &'a Item>,
    skipped: impl Fn(&Item) -> bool,
) -> Option<String> {
    let mut counts = vec![(0_usize, 0_usize); classes.len()];
    for item in items {
        let (lost, all) = &mut counts[item.class as usize];
        *all += 1;
        *lost += skipped(item) as usize;
    }
    let heavy = classes.iter().zip(&counts).filter(|(_, (lost, all))| *lost as f64 > TOLERATED * *all as f64);
    let told: Vec<String> =
        heavy.map(|(class, (lost, all))| format!("'{class}' lost {lost} of {all} pictures")).collect();
    (!told.is_empty()).then(|| format!("class {}, more than a tenth, because they cannot be read", told.join(", ")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn more_than_a_tenth_of_one_class() {
        let item = |i: usize| Item { path: "".into(), relative: format!("{i}"), class: (i % 2) as u32 };
        let items: Vec<Item> = (0..40).map(item).collect();
        let classes = ["even".to_string(), "odd".to_string()];
        let lost =
            |skipped: &[&str]| lost_classes(&classes, items.iter(), |item| skipped.contains(&&item.relative[..]));
        assert_eq!(lost(&["1", "3", "2"]), None);
        assert!(lost(&["1", "3", "5", "2"]).unwrap().contains("'odd' lost 3 of 20"));
    }
}
