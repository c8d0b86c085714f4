#![allow(clippy::unwrap_used)]

use serde_json::json;

use super::*;

fn schema() -> Schema {
    Schema::read(&json!({
        "type": "object",
        "additionalProperties": false,
        "required": ["topic"],
        "properties": {
            "topic": {"type": "string", "minLength": 1, "description": "Where to"},
            "size": {"type": "integer", "minimum": 64, "maximum": 1024, "default": 128},
            "factor": {"type": "number", "minimum": 0},
            "form": {"type": "string", "enum": ["a", "b"], "default": "a"},
            "fields": {"type": "array", "items": {"type": "string"}, "default": []},
            "rename": {"type": "object", "additionalProperties": {"type": "string", "maxLength": 3}},
            "inner": {
                "type": "object",
                "properties": {"on": {"type": "boolean", "default": true}, "any": {}}
            }
        }
    }))
    .unwrap()
}

fn faults(settings: Value) -> String {
    schema().complete(&settings).unwrap_err().to_string()
}

#[test]
fn defaults_are_filled_in_and_what_is_given_stays() {
    let given = json!({"topic": "t", "form": "b", "inner": {"any": [1, {}]}});
    let whole = schema().complete(&given).unwrap();
    assert_eq!(
        whole,
        json!({"topic": "t", "form": "b", "inner": {"any": [1, {}], "on": true}, "size": 128, "fields": []})
    );
    assert_eq!(schema().complete(&whole).unwrap(), whole, "once more changes nothing");
    let nothing_needed = Schema::read(&json!({"type": "object"})).unwrap();
    assert_eq!(nothing_needed.complete(&Value::Null).unwrap(), json!({}));
}

#[test]
fn errors_name_key_value_and_what_was_expected() {
    let table = [
        (json!({}), "`topic` is missing, expected text that is not empty"),
        (json!([1]), "it is a list, expected a table"),
        (json!({"topic": ""}), "`topic` is \"\", expected text that is not empty"),
        (json!({"topic": 5}), "`topic` is 5, expected text that is not empty"),
        (json!({"topic": "t", "size": 5}), "`size` is 5, expected a whole number from 64 to 1024"),
        (json!({"topic": "t", "size": 99.5}), "`size` is 99.5, expected a whole number from 64 to 1024"),
        (json!({"topic": "t", "size": "99"}), "`size` is \"99\", expected a whole number from 64 to 1024"),
        (json!({"topic": "t", "factor": -0.5}), "`factor` is -0.5, expected a number of at least 0"),
        (json!({"topic": "t", "form": "c"}), "`form` is \"c\", expected one of \"a\", \"b\""),
        (json!({"topic": "t", "fields": "x"}), "`fields` is \"x\", expected a list, each entry text"),
        (json!({"topic": "t", "fields": ["x", 7]}), "`fields[1]` is 7, expected text"),
        (
            json!({"topic": "t", "rename": {"x": "long"}}),
            "`rename.x` is \"long\", expected text of at most 3 characters",
        ),
        (json!({"topic": "t", "inner": {"on": 1}}), "`inner.on` is 1, expected true or false"),
        (
            json!({"topic": "t", "topics": 1}),
            "there is no setting `topics`, expected one of `topic`, `size`, `factor`, `form`, `fields`, `rename`, \
             `inner`",
        ),
    ];
    for (settings, expected) in table {
        assert_eq!(faults(settings.clone()), expected, "{settings}");
    }
}

#[test]
fn all_that_is_wrong_is_told_at_once_and_cut_short() {
    let faults = faults(json!({"form": "x".repeat(100), "size": true}));
    let shown = "x".repeat(59);
    assert_eq!(
        faults,
        format!(
            "`form` is \"{shown}…, expected one of \"a\", \"b\"; `size` is true, expected a whole number from 64 \
             to 1024; `topic` is missing, expected text that is not empty"
        )
    );
}

#[test]
fn a_word_that_would_go_unchecked_is_refused() {
    let property = |schema: Value| json!({"type": "object", "properties": {"a": schema}});
    let table = [
        (json!({"type": "string"}), "settings: the settings are a table, expected `type` = \"object\""),
        (json!("x"), "settings: it is \"x\", expected a table"),
        (
            property(json!({"pattern": "x"})),
            "settings.properties.a: unknown word `pattern`, expected one of type, ",
        ),
        (property(json!({"type": "text"})), "settings.properties.a: `type` is \"text\", expected one of "),
        (
            property(json!({"type": "string", "minimum": 1})),
            "settings.properties.a: `minimum` belongs to `type` = \"integer\" or \"number\"",
        ),
        (
            property(json!({"maxLength": 1})),
            "settings.properties.a: `maxLength` belongs to `type` = \"string\"",
        ),
        (
            property(json!({"type": "string", "minLength": -1})),
            "settings.properties.a: `minLength` is -1, expected a whole number of characters",
        ),
        (property(json!({"enum": []})), "settings.properties.a: `enum` is [], expected a list of values"),
        (
            property(json!({"type": "integer", "minimum": 5, "default": 4})),
            "settings.properties.a: `default` does not fit: it is 4, expected a whole number of at least 5",
        ),
        (
            property(json!({"type": "string", "enum": ["a", 1]})),
            "settings.properties.a: `enum` does not fit: ",
        ),
        (
            json!({"type": "object", "required": ["b"]}),
            "settings: `required` names `b`, which is not in `properties`",
        ),
        (
            property(json!({"type": "array", "items": {"x": 1}})),
            "settings.properties.a.items: unknown word `x`",
        ),
    ];
    for (schema, expected) in table {
        let error = Schema::read(&schema).unwrap_err().to_string();
        assert!(error.starts_with(expected), "{error}\n{schema}");
    }
}
