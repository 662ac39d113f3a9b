//! The reader and the writer of one field of [`Config`], as the rows of the table name them.

use super::{
    dialect::ConfigValue,
    types::Config,
    values::{Found, Notes},
};

/// How a key's value gets into its field, and back into a file.
pub(crate) struct Field {
    /// Reads a value into the field.
    pub(super) read: fn(&mut Config, &ConfigValue, &mut Notes) -> Result<(), Found>,
    /// The field's value as a file has it, or `None` if the file must not set the key.
    pub(super) write: fn(&Config) -> Option<String>,
}

/// `field!(module::reader => path.to.field)` is the [`Field`] that a reader of this module's siblings fills.
macro_rules! field {
    ($module:ident :: $reader:ident => $($name:ident).+) => {
        $crate::config::field::Field {
            read: |config, value, notes| {
                config.$($name).+ = $crate::config::$module::$reader(value, notes)?.into();
                Ok(())
            },
            write: |config| $crate::config::values::Written::written(&config.$($name).+),
        }
    };
}
pub(crate) use field;
