//! The models that come with convoy: files in `zoo/`, read as a user's own are.

use super::Model;
use crate::error::{Error, Result};

macro_rules! zoo {
    ($($name:literal),+ $(,)?) => {
        /// Names and files.
        const ZOO: &[(&str, &str)] = &[$(($name, include_str!(concat!("zoo/", $name, ".toml")))),+];
    };
}

zoo![
    "alexnet",
    "alexnet-2gpu",
    "alexnet-tutorial",
    "alexnet-bn",
    "alexnet-torchvision",
    "caffenet",
    "zfnet",
    "vgg11",
    "resnet18",
    "lenet",
    "cuda-convnet",
    "four-layer",
];

impl Model {
    /// Names of the models that come with convoy.
    pub fn zoo() -> Vec<&'static str> {
        ZOO.iter().map(|(name, _)| *name).collect()
    }

    /// A model of the zoo. (One in a file: [`crate::formats::load_model`].)
    ///
    /// # Errors
    /// When there is no such model; the message lists the zoo.
    pub fn find(name: &str) -> Result<Model> {
        Model::parse(Model::file(name)?, name)
    }

    /// The file of a model of the zoo: an example to start from.
    ///
    /// # Errors
    /// As [`Model::find`].
    pub fn file(name: &str) -> Result<&'static str> {
        match ZOO.iter().find(|(known, _)| *known == name) {
            Some((_, text)) => Ok(text),
            None => {
                let zoo = Model::zoo().join(", ");
                Err(Error::input(format!("there is no model {name:?}: use one of {zoo}, or a .toml file")))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::graph::Graph;
    use crate::models::{BuildOptions, OptimizerConfig, Phase, train_graph};

    #[test]
    fn the_zoo_reads_and_writes_back() {
        for name in Model::zoo() {
            let model = Model::find(name).unwrap();
            assert_eq!(model.name, name);
            assert_eq!(Model::parse(&model.to_toml().unwrap(), "copy").unwrap(), model);
            train_graph(&model, &BuildOptions::new(2, 3), &OptimizerConfig::adam(0.0), 0.0).unwrap();
        }
    }

    #[test]
    fn unknown_models_list_the_zoo() {
        let unknown = Model::find("vgg").unwrap_err().to_string();
        assert!(unknown.contains("alexnet, alexnet-2gpu, alexnet-tutorial"), "{unknown}");
    }

    /// Parameters and multiply-accumulates of one picture, as others count them.
    #[test]
    fn counts_are_the_published_ones() {
        // Caffe's models: its own counts of bvlc_alexnet and bvlc_reference_caffenet (60,965,224 parameters, 724,406,816 products), of
        // cifar10_quick (145,578), which is layers-80sec, and of cifar10_full (89,578), which has the layers of layers-18pct.
        // torchvision's table of models: alexnet 61,100,840 and 0.71 GFLOPS (of one multiply-accumulate each), vgg11 132,863,336
        // and 7.61, resnet18 11,689,512 and 1.81. AlexNet in one tower with 1000 classes: 62,378,344 parameters, 1.14 G products.
        // alexnet-bn has a scale and a shift for each of 1,376 channels, for a bias. The tutorial's net has AlexNet's sizes.
        // LeNet-5 in colour: PyTorch's CIFAR-10 tutorial's net, 62,006. ZFNet: 62,357,608, what the sizes of its figure 3 add up to.
        for (name, classes, parameters, giga_macs) in [
            ("alexnet", 1000, 62_378_344, 1.135),
            ("alexnet-2gpu", 1000, 60_965_224, 0.724),
            ("alexnet-bn", 1000, 62_378_344 + 1_376, 1.135),
            ("alexnet-tutorial", 1000, 62_378_344, 1.135),
            ("caffenet", 1000, 60_965_224, 0.724),
            ("alexnet-torchvision", 1000, 61_100_840, 0.714),
            ("vgg11", 1000, 132_863_336, 7.609),
            ("resnet18", 1000, 11_689_512, 1.814),
            ("zfnet", 1000, 62_357_608, 1.168),
            ("lenet", 10, 62_006, 0.000652),
            ("cuda-convnet", 10, 145_578, 0.0123),
            ("four-layer", 10, 89_578, 0.0123),
        ] {
            let mut graph = Graph::new();
            let model = Model::find(name).unwrap();
            let network = model.build(&mut graph, &BuildOptions::new(1, classes), Phase::Training).unwrap();
            assert_eq!(network.layers.iter().map(|l| l.parameters).sum::<u64>(), parameters, "{name}");
            let macs = network.layers.iter().map(|l| l.macs).sum::<u64>() as f64 / 1e9;
            assert!((macs / giga_macs - 1.0).abs() < 1e-2, "{name}: {macs} GMAC");
        }
    }

    /// Layers without a name have Caffe's.
    #[test]
    fn names_are_those_of_caffe() {
        let names: Vec<String> = Model::find("alexnet").unwrap().layers.into_iter().map(|layer| layer.name).collect();
        let expected = "conv1 relu1 norm1 pool1 conv2 relu2 norm2 pool2 conv3 relu3 conv4 relu4 conv5 relu5 pool5 \
                        flatten fc6 relu6 drop6 fc7 relu7 drop7 fc8";
        assert_eq!(names.join(" "), expected);
    }

    /// torchvision's names of parameters and statistics (but `num_batches_tracked`, which nothing here needs).
    #[test]
    fn resnet18_has_torchvisions_tensors() {
        let mut graph = Graph::new();
        let network =
            Model::find("resnet18").unwrap().build(&mut graph, &BuildOptions::new(2, 1000), Phase::Training).unwrap();
        // Of torchvision's 122 entries 20 are counters.
        assert_eq!(network.parameters.len(), 102);
        let shape = |name: &str| {
            let found = network.parameters.iter().find(|p| p.name == name);
            found.unwrap_or_else(|| panic!("no {name}")).shape.to_vec()
        };
        assert_eq!(shape("conv1.weight"), [64, 3, 7, 7]);
        assert_eq!(shape("bn1.running_var"), [64]);
        assert_eq!(shape("layer2.0.downsample.0.weight"), [128, 64, 1, 1]);
        assert_eq!(shape("layer4.1.bn2.bias"), [512]);
        assert_eq!(shape("fc.weight"), [1000, 512]);
    }
}
