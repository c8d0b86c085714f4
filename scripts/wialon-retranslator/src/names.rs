//! What a field is called at the receiver.

use std::collections::BTreeMap;

use serde::Deserialize;

use crate::packet::Name;

/// The setting `names`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Spelling {
    /// Letters, digits and `_`; everything else becomes `_`.
    #[default]
    Underscore,
    /// Dots and the rest of printable ASCII stay.
    Keep,
}

/// The setting `rename`: from field name to the name at the receiver.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(try_from = "BTreeMap<String, String>")]
pub(crate) struct Rename(Vec<(String, Name)>);

/// Names that stand for something other than a parameter.
const RESERVED: [&str; 6] = ["posinfo", "avl_inputs", "avl_outputs", "avl_driver", "image", "imag"];

/// Parameters that the protocol recommends a name for, and those that flespi's
/// own receiver reads under these names.
const KNOWN: [(&str, &str); 4] = [
    ("external.powersource.voltage", "pwr_ext"),
    ("battery.voltage", "pwr_int"),
    ("gsm.signal.level", "gsm"),
    ("engine.ignition.status", "ign"),
];

impl TryFrom<BTreeMap<String, String>> for Rename {
    type Error = String;

    fn try_from(table: BTreeMap<String, String>) -> Result<Self, String> {
        let mut renames = Vec::with_capacity(table.len());
        for (field, wanted) in table {
            if RESERVED.contains(&wanted.as_str()) {
                return Err(format!("`{field}` cannot be called `{wanted}`, which is no parameter"));
            }
            let name = Name::new(&wanted).ok_or_else(|| {
                format!(
                    "`{field}` cannot be called `{wanted}`, expected 1 to 38 characters of printable ASCII"
                )
            })?;
            renames.push((field, name));
        }
        Ok(Self(renames))
    }
}

impl Rename {
    /// The name of the parameter that carries `field`.
    pub(crate) fn name(&self, field: &str, spelling: Spelling) -> Name {
        if let Some((_, name)) = self.0.iter().find(|(from, _)| from == field) {
            return *name;
        }
        let keep = spelling == Spelling::Keep;
        if let Some((_, known)) = KNOWN.iter().find(|(from, _)| *from == field) {
            return Name::nearest(known, keep);
        }
        if let Some(number) = field.strip_prefix("ain.")
            && !number.is_empty()
            && number.bytes().all(|digit| digit.is_ascii_digit())
        {
            return Name::nearest(&format!("adc{number}"), keep);
        }
        let name = Name::nearest(field, keep);
        if RESERVED.iter().any(|reserved| reserved.as_bytes() == name.as_bytes()) {
            return Name::nearest(&format!("{name}_"), keep);
        }
        name
    }
}

/// Voltages are doubles everywhere in published packets. A receiver that saw
/// the double of 12.4 should not see an integer when the voltage is 12.
pub(crate) fn is_voltage(name: &Name) -> bool {
    match name.as_bytes() {
        b"pwr_ext" | b"pwr_int" => true,
        [b'a', b'd', b'c', digits @ ..] => !digits.is_empty() && digits.iter().all(u8::is_ascii_digit),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn rename(table: &[(&str, &str)]) -> Result<Rename, String> {
        let table: BTreeMap<_, _> =
            table.iter().map(|(from, to)| (from.to_string(), to.to_string())).collect();
        table.try_into()
    }

    #[test]
    fn what_fields_are_called() {
        let table = [
            ("external.powersource.voltage", "pwr_ext"),
            ("battery.voltage", "pwr_int"),
            ("gsm.signal.level", "gsm"),
            ("engine.ignition.status", "ign"),
            ("ain.1", "adc1"),
            ("ain.12", "adc12"),
            ("ain", "ain"),
            ("ain.", "ain_"),
            ("ain.x", "ain_x"),
            ("can.fuel.volume", "fuel"),
            ("fuel.level", "fuel_level"),
            ("avl_driver", "avl_driver_"),
            ("avl.driver", "avl_driver_"),
            ("image", "image_"),
        ];
        let renames = rename(&[("can.fuel.volume", "fuel")]).unwrap();
        for (field, expected) in table {
            assert_eq!(renames.name(field, Spelling::Underscore).to_string(), expected, "{field}");
        }
        assert_eq!(renames.name("fuel.level", Spelling::Keep).to_string(), "fuel.level");
        assert_eq!(renames.name("avl.driver", Spelling::Keep).to_string(), "avl.driver");
    }

    #[test]
    fn names_that_cannot_be_are_refused() {
        assert_eq!(
            rename(&[("din", "posinfo")]).unwrap_err(),
            "`din` cannot be called `posinfo`, which is no parameter"
        );
        assert_eq!(
            rename(&[("din", "вход")]).unwrap_err(),
            "`din` cannot be called `вход`, expected 1 to 38 characters of printable ASCII"
        );
        assert!(rename(&[("din", "")]).is_err());
        assert!(rename(&[("din", &"n".repeat(39))]).is_err());
    }

    #[test]
    fn voltages() {
        for name in ["pwr_ext", "pwr_int", "adc1", "adc25"] {
            assert!(is_voltage(&Name::new(name).unwrap()), "{name}");
        }
        for name in ["adc", "adcx", "gsm", "pwr_ext_"] {
            assert!(!is_voltage(&Name::new(name).unwrap()), "{name}");
        }
    }
}
