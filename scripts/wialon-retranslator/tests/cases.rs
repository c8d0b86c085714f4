//! The golden cases natively, and what the settings refuse.

use sluicegate_sdk::Instance;
use wialon_retranslator::Retranslator;

#[test]
fn cases() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/cases");
    sluicegate_sdk::testing::run_cases::<Retranslator>(folder);
}

#[test]
fn settings_that_cannot_be_are_refused() {
    let table = [
        (r#"{"max_packet":255}"#, "`max_packet` = 255, expected 256 to 1048576 bytes"),
        (r#"{"max_packet":1048577}"#, "`max_packet` = 1048577, expected 256 to 1048576 bytes"),
        (r#"{"missing_satellites":128}"#, "`missing_satellites` = 128, expected 0 to 127"),
        (
            r#"{"names":"dots"}"#,
            "`names` = \"dots\": unknown variant `dots`, expected `underscore` or `keep`",
        ),
        (
            r#"{"rename":{"din":"posinfo"}}"#,
            "`rename` = {\"din\":\"posinfo\"}: `din` cannot be called `posinfo`, which is no parameter",
        ),
    ];
    for (settings, expected) in table {
        assert_eq!(Instance::<Retranslator>::configure(settings).err().as_deref(), Some(expected));
    }
}
