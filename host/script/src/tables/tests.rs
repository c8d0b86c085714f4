//! Tables from CSV, right and wrong, small and large.

#![allow(clippy::unwrap_used)]

use std::collections::HashMap;
use std::fmt::Write as _;
use std::fs;

use proptest::prelude::*;

use super::*;

fn table(csv: &[u8]) -> Result<Tables, TableError> {
    Tables::of_csv([("t", csv)])
}

fn get<'t>(tables: &'t Tables, key: &str) -> Option<&'t str> {
    tables.get("t", key).unwrap()
}

/// A table in a file, with these columns.
fn file(csv: &[u8], key: Option<&str>, value: Option<&str>) -> Result<Tables, TableError> {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("x.csv");
    fs::write(&file, csv).unwrap();
    let columns = Columns { key: key.map(str::to_owned), value: value.map(str::to_owned) };
    let settings = TableSettings { name: "t".to_owned(), file, columns };
    Tables::read(&[settings]).map_err(|error| TableError { file: "x.csv".into(), ..error })
}

#[test]
fn what_csv_becomes() {
    let csv = "\u{feff}imei, id ,more\r\n 8612 ,Truck 7,x\r\n\r\n\"86\"\"13\",\"a, b\nc\",\r\n8614,,z";
    let tables = table(csv.as_bytes()).unwrap();
    assert_eq!(get(&tables, "8612"), Some("Truck 7"));
    assert_eq!(get(&tables, "86\"13"), Some("a, b\nc"));
    assert_eq!(get(&tables, "8614"), Some(""));
    assert_eq!((get(&tables, " 8612"), get(&tables, "imei"), get(&tables, "")), (None, None, None));
    assert_eq!(tables.iter().map(|(name, table)| (name, table.len())).collect::<Vec<_>>(), [("t", 3)]);
}

#[test]
fn columns_by_their_names() {
    let csv = b"customer,imei,id\nAcme,8612,7\n";
    assert_eq!(get(&file(csv, None, None).unwrap(), "Acme"), Some("8612"));
    assert_eq!(get(&file(csv, Some("imei"), Some("customer")).unwrap(), "8612"), Some("Acme"));
    assert_eq!(get(&file(csv, None, Some("id")).unwrap(), "Acme"), Some("7"));
}

#[test]
fn wrong_files_are_told_by_line() {
    let wrong = |csv: &[u8]| table(csv).unwrap_err().to_string();
    for (csv, expected) in [
        (
            &b""[..],
            "t.csv: it is empty, expected a first line with the names of the columns, such as `imei,id`",
        ),
        (
            b"imei;id\n8612;7\n",
            "t.csv: its header has one column only, \"imei;id\", expected columns that are separated by commas",
        ),
        (
            b"imei\n",
            "t.csv: its header has one column only, \"imei\", expected a column of keys and a column of values",
        ),
        (
            b"imei,id\n8612,7\n8613\n",
            "t.csv:3: the row has 1 field and the header 2, expected as many as there are columns; \
             a field with a comma or a line end needs double quotes",
        ),
        (
            b"imei,id\n8612,7\n\n8613,8\n8612,9\n",
            "t.csv:5: the key \"8612\" is in line 2 already, expected each key once",
        ),
        (
            b"imei,id\r\n8612,7\r\n8612,7\r\n",
            "t.csv:3: the key \"8612\" is in line 2 already, expected each key once",
        ),
        (b"imei,id\n\"a\nb\",7\n ,8\n", "t.csv:4: the key is empty, expected a key in each row"),
        (b"imei,id\n8612,\xff\n", "t.csv:2: it is not UTF-8 text, expected UTF-8 text"),
        (b"\xff\xfei\0m\0,\0i\0", "t.csv: it is not UTF-8 text, expected UTF-8 text"),
    ] {
        assert_eq!(wrong(csv), format!("table `t`: {expected}"), "{}", csv.escape_ascii());
    }
    let long = format!("imei,id\n1,\"{}\n", "2,3\n".repeat(20_000));
    assert_eq!(
        wrong(long.as_bytes()),
        "table `t`: t.csv:2: a field has 79999 bytes, expected at most 65535; perhaps a double quote is not closed"
    );
    let key = "k".repeat(100);
    let twice = wrong(format!("a,b\n{key},1\n{key},2").as_bytes());
    assert!(twice.contains(&format!("the key \"{}\"... is in line 2", &key[..60])), "{twice}");
}

#[test]
fn wrong_columns_are_told() {
    let csv = b"customer,imei,imei\nAcme,8612,7\n";
    let wrong = |key, value| file(csv, key, value).unwrap_err().to_string();
    assert_eq!(
        wrong(Some("ident"), None),
        "table `t`: x.csv: its header has no column `ident`, expected one of `customer`, `imei`, `imei`"
    );
    assert_eq!(
        wrong(None, Some("imei")),
        "table `t`: x.csv: its header has the column `imei` twice, expected a name of its own for a column that is used"
    );
    assert_eq!(
        wrong(None, Some("customer")),
        "table `t`: x.csv: its column `customer` would be key and value, expected another column for one of them, as `key` or `value`"
    );
}

#[test]
fn files_that_cannot_be_read() {
    let read = |file: PathBuf| {
        let settings = TableSettings { name: "t".to_owned(), file, columns: Columns::default() };
        Tables::read(&[settings]).unwrap_err().problem
    };
    let folder = tempfile::tempdir().unwrap();
    assert!(matches!(read(folder.path().join("gone.csv")), TableProblem::Unreadable(_)));
    assert!(matches!(read(folder.path().to_owned()), TableProblem::Unreadable(_)));
}

#[test]
fn the_version_is_that_of_names_keys_and_values() {
    let version = |name: &str, csv: &str| Tables::of_csv([(name, csv.as_bytes())]).unwrap().version().clone();
    let one = version("t", "a,b\n1,2\n3,4\n");
    assert_eq!(
        one,
        version("t", "key,value,note\r\n3,4,x\r\n\"1\" ,2,y\r\n"),
        "only what can be looked up counts"
    );
    for other in ["a,b\n1,2\n3,5\n", "a,b\n1,2\n", "a,b\n12,\n3,4\n"] {
        assert_ne!(one, version("t", other), "{other}");
    }
    assert_ne!(one, version("u", "a,b\n1,2\n3,4\n"));
    assert_ne!(&one, Tables::default().version());
    assert_eq!(Tables::default().version(), Tables::of_csv([]).unwrap().version());
    let two = |names: [&'static str; 2]| Tables::of_csv(names.map(|n| (n, &b"a,b\n1,2\n"[..]))).unwrap();
    assert_eq!(two(["t", "u"]).version(), two(["u", "t"]).version(), "the order of the file does not count");
}

#[test]
fn the_same_content_is_in_memory_once() {
    let (one, two) = (table(b"a,b\nshared,1\n").unwrap(), table(b"a,b\nshared, 1\n").unwrap());
    let first = |tables: &Tables| tables.0.tables[0].1.clone();
    assert!(Arc::ptr_eq(&first(&one), &first(&two)));
    let version = first(&one).version().clone();
    drop((one, two));
    table(b"a,b\nother,1\n").unwrap();
    assert!(!IN_USE.lock().unwrap().contains_key(&version), "and not at all when nobody uses it");
}

#[test]
fn names_of_tables() {
    for good in ["a", "imei_to_id", "A-1", &"x".repeat(64)] {
        assert!(TableSettings::is_name(good), "{good}");
    }
    for wrong in ["", "topic", "a.b", "a[b", "ü", "a b", &"x".repeat(65)] {
        assert!(!TableSettings::is_name(wrong), "{wrong}");
    }
}

/// Numbers such as IMEIs and names for them: about 32 bytes a row.
fn fleet(rows: usize) -> String {
    let mut csv = String::from("imei,id\n");
    for n in 0..rows {
        // Not in the order of the keys.
        let imei = 352_000_000_000_000_u64 + (n as u64 * 7_919) % 1_000_003;
        let _ = writeln!(csv, "{imei},vehicle-{n:07}");
    }
    csv
}

/// A million rows: all are found, and each costs little more than its text.
#[test]
fn large_tables_are_small() {
    for rows in [20_000, 1_000_000] {
        let csv = fleet(rows);
        let tables = table(csv.as_bytes()).unwrap();
        for line in csv.lines().skip(1) {
            let (key, value) = line.split_once(',').unwrap();
            assert_eq!(get(&tables, key), Some(value));
        }
        assert_eq!(get(&tables, "351999999999999"), None);
        let (_, table) = tables.iter().next().unwrap();
        assert_eq!(table.len(), rows);
        let text = csv.len() - "imei,id\n".len() - 2 * rows;
        let each = (table.size() - text) / rows;
        assert!(each <= 24, "{each} bytes a row beside its text");
    }
}

#[test]
fn a_table_beyond_its_bounds_is_refused() {
    let csv = fleet(1_000_001);
    assert_eq!(table(csv.as_bytes()).unwrap_err().problem, TableProblem::TooManyRows);
    let mut csv = b"imei,id\n1,".to_vec();
    csv.resize((64 << 20) + 1, b'x');
    assert_eq!(table(&csv).unwrap_err().problem, TableProblem::TooLarge);
    assert_eq!(file(&csv, None, None).unwrap_err().problem, TableProblem::TooLarge);
    let short = vec![b'\n'; 64 << 20];
    assert_eq!(table(&short).unwrap_err().problem, TableProblem::Empty, "as large as is allowed");
}

/// Fields as they count: nothing that reading would take off or put right.
fn field() -> impl Strategy<Value = String> {
    prop_oneof![".{0,12}", "[a-c\"',;\r\n ]{0,4}", "[0-9]{1,3}"]
        .prop_map(|text| text.trim().replace("\r\n", "\n"))
}

proptest! {
        #[test]
    fn what_is_written_is_what_is_read_back(rows in prop::collection::hash_map("\\PC*\\S\\PC*", "(\\PC|[\r\n\",])*", 0..20)) {
        let mut builder = table::Builder::default();
        let mut keys = HashMap::new();
        for (key, value) in &rows {
            if keys.insert(key.trim(), value.trim()).is_none() {
                builder.add(key.trim(), value.trim(), 1).unwrap();
            }
        }
        let table = builder.build();
        let mut file = Vec::new();
        table.write(&mut file).unwrap();
        let back = Table::read_back(&file).unwrap();
        prop_assert_eq!(back.version(), table.version(), "{}", String::from_utf8_lossy(&file));
    }

#[test]
    fn a_table_gives_what_a_map_gives(
        rows in prop::collection::hash_map(field().prop_filter("a key", |key| !key.is_empty()), field(), 0..60),
        others in prop::collection::vec(field(), 0..20),
    ) {
        let mut writer = csv::Writer::from_writer(Vec::new());
        writer.write_record(["key", "value"]).unwrap();
        for (key, value) in &rows {
            writer.write_record([key, value]).unwrap();
        }
        let tables = table(&writer.into_inner().unwrap()).unwrap();
        let rows: HashMap<&str, &str> = rows.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
        for key in rows.keys().copied().chain(others.iter().map(String::as_str)) {
            prop_assert_eq!(get(&tables, key), rows.get(key).copied());
        }
    }

    #[test]
    fn any_bytes_are_a_table_or_an_error(bytes in prop::collection::vec(any::<u8>(), 0..300), more in "[a-b,\"\r\n]{0,60}") {
        for bytes in [&bytes[..], more.as_bytes(), &[b"k,v\n", more.as_bytes()].concat()] {
            if let Err(error) = table(bytes) {
                prop_assert!(!error.to_string().contains('\n'), "{}", error);
            }
        }
    }
}
