//! Models by name or from files of their own.

use std::path::Path;

use super::text;
use crate::error::Result;
use crate::models::Model;

/// A model of the zoo, or the one in a file whose name ends in `.toml`.
///
/// # Errors
/// When there is no such model (the message lists the zoo) or file, or the file is not a model.
pub fn load_model(name_or_path: &str) -> Result<Model> {
    Model::parse(&model_text(name_or_path)?, name_or_path)
}

/// The text of such a model.
///
/// # Errors
/// When there is no such model or file.
pub fn model_text(name_or_path: &str) -> Result<String> {
    let path = Path::new(name_or_path);
    if path.extension().is_none_or(|extension| extension != "toml") {
        return Model::file(name_or_path).map(String::from);
    }
    text::read(path, "cannot read the model")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn by_name_or_from_a_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("mine.toml");
        let model = Model::find("four-layer").unwrap();
        std::fs::write(&path, model.to_toml().unwrap()).unwrap();
        assert_eq!(load_model(path.to_str().unwrap()).unwrap(), model);
        assert_eq!(load_model("four-layer").unwrap(), model);
        assert!(load_model("missing.toml").unwrap_err().to_string().contains("cannot read the model"));
        assert!(load_model("vgg").unwrap_err().to_string().contains("there is no model \"vgg\""));
    }
}
