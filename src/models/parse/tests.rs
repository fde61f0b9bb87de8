//! What model files may say, and what is told of those that are wrong.

use super::*;

fn message(text: &str) -> String {
    Model::parse(text, "my.toml").unwrap_err().to_string()
}

#[test]
fn errors_name_the_file_and_the_layer() {
    let head = "name = \"m\"\ninput = [3, 8, 8]\n";
    for (text, expected) in [
        ("", "needs layers"),
        ("name = \n", "line 1"),
        (&format!("{head}layer = []"), "unknown field `layer`"),
        (&format!("{head}layers = []"), "needs layers"),
        (&format!("{head}layers = [{{ name = 3, kind = \"relu\" }}]"), "line 3: name = 3: expected a name"),
        (&format!("{head}layers = [{{ name = \"c\", kind = \"conv3d\" }}]"), "layer c: kind: unknown variant `conv3d`"),
        (
            &format!("{head}layers = [{{ name = \"c\", kind = \"conv2d\", out = 3 }}]"),
            "layer c: missing field `kernel`",
        ),
        (
            &format!("{head}layers = [{{ name = \"r\", kind = \"relu\", rate = 3 }}]"),
            "layer r: rate: unknown field `rate`",
        ),
        (
            &format!("{head}layers = [{{ name = \"p\", kind = \"max_pool2d\", kernel = -1 }}]"),
            "layer p: kernel: expected a whole number up to 65535, or [height, width]",
        ),
        (&format!("{head}layers = [{{ name = \"f\", kind = \"linear\", out = \"two\" }}]"), "or \"classes\""),
        (
            &format!("{head}activation = \"swish\"\nlayers = [{{ name = \"r\", kind = \"relu\" }}]"),
            "expected one of \"relu\"",
        ),
        (&format!("{head}layers = [{{ name = \"../r\", kind = \"relu\" }}]"), "layer ../r: a layer's name"),
        (&format!("{head}layers = [{{ name = \"n\", kind = \"lrn\", alpha = nan }}]"), "layer n: alpha = NaN"),
        (&format!("{head}layers = [{{ name = \"n\", kind = \"lrn\", k = 0.0 }}]"), "layer n: k = 0"),
        (
            &format!("{head}layers = [{{ name = \"f\", kind = \"linear\", out = 2, bias = nan }}]"),
            "layer f: bias = NaN",
        ),
        (
            &format!("{head}init = {{ normal = -0.1 }}\nlayers = [{{ name = \"f\", kind = \"linear\", out = 2 }}]"),
            "line 3: init: invalid value: floating point `-0.1`, expected a deviation of 0 or more",
        ),
        ("name = \"\"\ninput = [3, 8, 8]\nlayers = [{ name = \"r\", kind = \"relu\" }]", "name and about"),
        (
            "name = \"m\"\ninput = [1, 8, 8]\nlayers = [{ name = \"r\", kind = \"relu\" }]",
            "line 2: input = [1, 8, 8]: expected [3, height, width]",
        ),
        (
            &format!("{head}layers = [{{ name = \"r\", kind = \"relu\" }}, {{ name = \"r\", kind = \"tanh\" }}]"),
            "two layers",
        ),
    ] {
        let message = message(text);
        assert!(message.starts_with("my.toml: ") && message.contains(expected), "{text}\n{message}");
        assert!(!message.contains('\n'), "{message}");
    }
}

/// The line is that of the key, wherever the layer begins.
#[test]
fn errors_name_the_line() {
    let text = |layers: &str| format!("name = \"m\"\ninput = [3, 8, 8]\n\nlayers = [\n{layers}\n]\n");
    let conv = "    { kind = \"conv2d\", out = 4, kernel = 3 },\n";
    for (layers, expected) in [
        (format!("{conv}    {{ kind = \"linear\", out = 3,\n out = 4 }},"), "line 7: duplicate key out"),
        (format!("{conv}    \"relux\","), "my.toml: line 6: unknown variant `relux`, expected one of `conv2d`"),
        (
            format!("{conv}    {{ kind = \"linear\",\n out = 3, lr_scale = \"a\" }},"),
            "line 7: lr_scale = \"a\": expected 0, or a number",
        ),
        (
            format!("{conv}    {{ kind = \"linear\", out = 3, decay_scale = -1 }},"),
            "line 6: decay_scale = -1: expected 0, or a number from 1.2e-38 to 3.4e38",
        ),
        (
            format!("{conv}    {{ name = \"f\", kind = \"linear\", out = 3, lr_scale = 1e-46 }},"),
            "line 6: layer f: lr_scale = 1e-46: expected 0, or a number",
        ),
        (
            format!("{conv}    {{ kind = \"relu\", lr_scale = 1.5 }},"),
            "line 6: lr_scale: the layer (relu) has no parameters to train",
        ),
        (
            format!("{conv}    {{ kind = \"conv2d\", out = 2.5, kernel = 1 }},"),
            "line 6: out: invalid type: floating point `2.5`, expected a whole number up to",
        ),
        (
            format!("{conv}    {{ kind = \"linear\", out = 3, bias = false,\n bias_lr_scale = 2 }},"),
            "line 7: bias_lr_scale: the layer (linear) has no bias to train",
        ),
        (
            format!("{conv}    {{ kind = \"linear\", out = 3, lr_mult = 2 }},"),
            "lr_mult: unknown field `lr_mult`, expected one of `out`, `bias`, `init`, `name`, `from`, `lr_scale`, `bias_lr",
        ),
        (
            format!("{conv}    {{ kind = \"relu\", slope = 2 }},"),
            "slope: unknown field `slope`, expected `name` or `from`",
        ),
        (format!("{conv}    7,"), "line 6: expected a layer, { kind = \"conv2d\", .. } or \"relu\", got integer"),
        (
            format!("{conv}{conv}    {{ kind = \"conv2d\", out = 4, kernl = 3 }},"),
            "line 7: kernl: unknown field `kernl`",
        ),
        (format!("{conv}    {{ kind = \"linear\", out = \"two\" }},"), "line 6: out: expected a whole number"),
        (format!("{conv}    {{ kind = \"linear\" }},"), "line 6: missing field `out`"),
        (format!("{conv}    \"linear\","), "line 6: missing field `out`"),
        (
            format!("{conv}    {{ kind = \"relu\", from = \"conv7\" }},"),
            "line 6: layer relu1: from = \"conv7\": no layer",
        ),
        (format!("{conv}    {{ kind = \"relu\", from = 3 }},"), "line 6: from: expected the name of a layer"),
        (format!("{conv}    {{ kind = \"lrn\", alpha = 1e400 }},"), "line 6: alpha: floating-point number"),
        (format!("{conv}    {{ name = \"input\", kind = \"relu\" }},"), "line 6: name = \"input\": that is the"),
        (format!("{conv}    \"add\","), "line 6: layer add1: add needs the name of another layer"),
        (
            format!("{conv}    {{ kind = \"relu\", from = [\"conv1\", \"input\"] }},"),
            "line 6: layer relu1: relu reads one layer, from names 2",
        ),
        (
            format!("{conv}    {{ kind = \"relu\", from = \"input\" }},"),
            "line 5: layer conv1: no layer reads what it gives",
        ),
        (
            format!("{conv}    {{ name = \"conv1\", kind = \"relu\" }}, {{ name = \"conv1\", kind = \"relu\" }},"),
            "line 6: two layers are called \"conv1\", this one and that of line 6",
        ),
    ] {
        let message = message(&text(&layers));
        assert!(message.contains(expected), "{layers}\n{message}");
    }
    let tables = "layers = [{ kind = \"flatten\" }]\n[[layers]]";
    assert!(message(tables).contains("line 2: "), "{}", message(tables));
    let tables = "[[layers]]\nkind = \"conv2d\"\nout = 3\nkernel = -1\n";
    assert!(message(tables).contains("line 4: kernel: expected a whole number"), "{}", message(tables));
    assert!(message("layers = 3").contains("line 1: layers: expected a list"));
    assert!(message("init = \"best\"\nlayers = [\"relu\"]").contains("line 1: "));
    let input = "about = \"\"\ninput = [3,\n 32]\nlayers = [\"relu\"]";
    assert!(message(input).contains("line 2: input: invalid length 2"), "{}", message(input));
}

#[test]
fn a_few_lines_are_a_model() {
    let model =
        Model::parse("layers = [\"flatten\", { kind = \"linear\", out = \"classes\" }]", "nets/small.toml").unwrap();
    assert_eq!((model.name.as_str(), model.input), ("small", [3, 224, 224]));
    assert_eq!(model.layers[1].name, "fc1");
    assert_eq!(model.layers[1].place.0, "nets/small.toml: line 1");
}

/// The command line writes them with hyphens.
#[test]
fn activations_have_hyphens_too() {
    let text = |name: &str| format!("activation = \"{name}\"\nlayers = [\"{name}\"]");
    let models = ["leaky-relu", "leaky_relu"].map(|name| Model::parse(&text(name), "m").unwrap());
    assert_eq!(models[0], models[1]);
}

#[test]
fn names_are_numbered_by_layers_with_weights() {
    let layers = "[{ kind = \"conv2d\", out = 4, kernel = 3 }, \"relu\", { kind = \"conv2d\", out = 4, kernel = 3 }, \
                  { kind = \"max_pool2d\", kernel = 2 }, { kind = \"max_pool2d\", kernel = 2 }, \
                  { name = \"pool2_2\", kind = \"tanh\" }, \"flatten\", { kind = \"linear\", out = 9 }]";
    let model = Model::parse(&format!("layers = {layers}"), "m").unwrap();
    let names: Vec<&str> = model.layers.iter().map(|layer| layer.name.as_str()).collect();
    assert_eq!(names, ["conv1", "relu1", "conv2", "pool2", "pool2_3", "pool2_2", "flatten", "fc3"]);
}
