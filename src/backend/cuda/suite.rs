//! Every case on the stand-ins: apart from their other tests, which would wait for it, since one at a time has the stand-ins.

use super::fake::fake;
use crate::backend::wgpu::translate::pipelines;
use crate::backend::{Device, DeviceOptions};
use crate::ops::case::Case;
use crate::selftest::{Kind, Selection, Suite};

/// Multiply-accumulates and elements of a case at most: larger ones reach few other edges, and would take most of the time. An eighth for
/// each kernel of a choice, which the tests of shaders run too: here it is their translation that is in question.
const MOST_MACS: u64 = 400_000;
const MOST_ELEMENTS: usize = 50_000;

/// Every case on the kinds of devices that there are for a GPU: each kernel compiles, and computes what it should. Of the small windows the
/// smallest, and no checks that naga would add.
#[test]
fn every_case_is_right() {
    let Some(fake) = fake() else { return };
    let mut dispatches = pipelines();
    dispatches.retain(|dispatch| !dispatch.kernel.source.contains("texture_storage_2d"));
    assert!(dispatches.len() > 300, "only {} pipelines", dispatches.len());
    let device = fake.open(&DeviceOptions::default());
    device.shared().kernels().get(&device.shared().context, &dispatches).unwrap();
    let suite = Suite::new(&Selection::default());
    let kinds = [Kind::plain()].into_iter().chain(Kind::others(device.info()));
    let (mut failures, mut checked) = (Vec::new(), 0);
    let apart = |kind: &Kind| !kind.options.checked && kind.options.max_binding_bytes.is_none_or(|bytes| bytes <= 4096);
    for kind in kinds.filter(apart) {
        let mut device = fake.open(&kind.options);
        let wanted = |case: &Case| {
            let elements: usize = case.types().iter().map(|ty| ty.shape.elements()).sum();
            let most = if kind.options.candidate > 0 { MOST_MACS / 8 } else { MOST_MACS };
            kind.takes(case) && case.op.macs(&case.types()) <= most && elements <= MOST_ELEMENTS
        };
        for prepared in suite.cases().iter().filter(|prepared| wanted(&prepared.case)) {
            checked += 1;
            if let Err(wrong) = prepared.check_on(&kind, &mut device) {
                failures.push(format!("{} {}: {wrong}", kind.name, prepared.case.label()));
            }
        }
    }
    assert!(failures.is_empty(), "{} of {checked} cases:\n{}", failures.len(), failures.join("\n"));
    println!("{} kernels, {checked} cases", dispatches.len());
}
