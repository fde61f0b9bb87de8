//! The random numbers of the shaders are those of `rng`: seen through dropout's mask, which is one comparison of a word.

use crate::common;
use std::collections::HashMap;

use convoy::backend::Device;
use convoy::graph::{Graph, Role};
use convoy::ops::{Dropout, DropoutScaling, Strip};
use convoy::rng::{Philox, stream};
use convoy::selftest::harness;
use convoy::tensor::{DType, Tensor, TensorType};

/// Which of `n` elements dropout keeps on `device`.
fn kept(device: &mut dyn Device, op: &Dropout, random: Philox, n: usize) -> Vec<bool> {
    let mut graph = Graph::new();
    let x = graph.source("x", TensorType::f32([n]), Role::Input).unwrap();
    let counter = graph.source("counter", TensorType::new([4], DType::U32), Role::Input).unwrap();
    let y = graph.apply("dropout", op.clone(), &[x, counter]).unwrap();
    let words = vec![random.seed as u32, (random.seed >> 32) as u32, random.step, 0];
    let given =
        HashMap::from([(x, Tensor::f32([n], vec![1.0; n]).unwrap()), (counter, Tensor::u32([4], words).unwrap())]);
    let found = harness::run(device, &graph, &given, &[y]).unwrap();
    found[0].as_f32().unwrap().iter().map(|&v| v == 1.0).collect()
}

fn check(device: &mut dyn Device) {
    // The odd length ends within a block of four words; the long one passes a dispatch's first row of workgroups.
    for (seed, step, layer, n) in
        [(0, 0, 0, 1001), (u64::MAX, u32::MAX, 7, 64), (1 << 32, 1, 0, 64), (9, 5, 1, 300_003)]
    {
        let random = Philox { seed, stream: stream::DROPOUT + layer, step };
        for rate in [0.5, 0.1] {
            let op = Dropout { rate, stream: random.stream, scaling: DropoutScaling::Paper, part: Strip::WHOLE };
            let expected: Vec<bool> = (0..n).map(|i| random.word(i) >= op.threshold()).collect();
            let found = kept(device, &op, random, n as usize);
            let wrong = (0..n as usize).find(|&i| found[i] != expected[i]);
            assert_eq!(wrong, None, "first wrong element; {random:?}, rate {rate}");
            let share = expected.iter().filter(|&&keep| keep).count() as f32 / n as f32;
            assert!((share + rate - 1.0).abs() < 0.15, "{share} are kept at rate {rate}");
        }
    }
}

#[test]
fn the_cpu_backend_drops_the_same_elements() {
    check(&mut *common::cpu());
}

#[test]
fn the_shaders_drop_the_same_elements() {
    check(&mut *common::gpu());
}
