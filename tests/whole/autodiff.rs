//! Autodiff on graphs of several ops. Each op's own gradient rule is checked in `shaders.rs`.

use crate::common;
use std::collections::HashMap;

use convoy::graph::{Role, autodiff, reference};
use convoy::ops::Array;
use convoy::tensor::TensorType;

/// A value used twice gets the sum of both gradients, through a chain of several ops.
#[test]
fn gradients_add_up_where_a_value_is_used_twice() {
    use convoy::graph::Graph;
    use convoy::ops::{Mul, Reduce, ReduceKind, Reshape, Scale};
    let mut g = Graph::new();
    let x = g.source("x", TensorType::f32([2, 3]), Role::Parameter).unwrap();
    let square = g.apply("square", Mul, &[x, x]).unwrap();
    let tripled = g.apply("tripled", Scale { factor: 3.0 }, &[x]).unwrap();
    let product = g.apply("product", Mul, &[square, tripled]).unwrap(); // 3 x^3
    let flat = g.apply("flat", Reshape { shape: [6].into() }, &[product]).unwrap();
    let loss = g.apply("loss", Reduce { kind: ReduceKind::Mean }, &[flat]).unwrap();
    let gradient = autodiff::gradients(&mut g, loss, &[x]).unwrap()[0];
    let data: Vec<f64> = vec![1.0, -2.0, 0.5, 3.0, 0.0, -1.5];
    let expected: Vec<f64> = data.iter().map(|v| 9.0 * v * v / 6.0).collect();
    let values = reference::run(&g, &HashMap::from([(x, Array { shape: [2, 3].into(), data })]));
    common::compare("9 x^2 / 6", &values[&gradient].data, &expected, (1e-6, 1e-6)).unwrap();
}

/// A loss that is not one number, or does not depend on the parameter, is an error that names the value.
#[test]
fn what_cannot_be_differentiated_is_an_error() {
    use convoy::graph::Graph;
    use convoy::ops::Scale;
    let mut g = Graph::new();
    let x = g.source("x", TensorType::f32([1]), Role::Parameter).unwrap();
    let other = g.source("other", TensorType::f32([2]), Role::Parameter).unwrap();
    let y = g.apply("y", Scale { factor: 2.0 }, &[x]).unwrap();
    let message = autodiff::gradients(&mut g, y, &[other]).unwrap_err().to_string();
    assert!(message.contains("other"), "{message}");
    let z = g.apply("z", Scale { factor: 2.0 }, &[other]).unwrap();
    let message = autodiff::gradients(&mut g, z, &[other]).unwrap_err().to_string();
    assert!(message.contains("[2]"), "{message}");
}
