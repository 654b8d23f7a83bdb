//! How numbers are written in HTML and Markdown.

/// What stands for `null`.
pub const NOT_MEASURED: &str = "not measured";
/// What stands for NaN and the infinities.
pub const NOT_FINITE: &str = "not finite";

/// An error measure (NMSE, KL, absolute difference) with two digits: `1.2e-14`; exactly 0 is `0`.
pub fn error(x: f64) -> String {
    if !x.is_finite() {
        NOT_FINITE.to_owned()
    } else if x == 0.0 {
        "0".to_owned()
    } else {
        format!("{x:.1e}")
    }
}

/// `digits` significant digits, in e-notation below 1e-4 and from 1e7: `97.1`, `1230`, `1.20e-5`.
pub fn significant(x: f64, digits: usize) -> String {
    if !x.is_finite() {
        return NOT_FINITE.to_owned();
    }
    if x == 0.0 {
        return "0".to_owned();
    }
    let scientific = format!("{x:.*e}", digits.saturating_sub(1));
    let rounded = scientific.split_once('e').and_then(|(_, exponent)| {
        let value = scientific.parse::<f64>().ok()?;
        Some((value, exponent.parse::<i32>().ok()?))
    });
    match rounded {
        Some((value, exponent)) if (-4..7).contains(&exponent) => {
            let decimals = (digits as i32 - 1 - exponent).max(0) as usize;
            format!("{value:.decimals$}")
        }
        _ => scientific,
    }
}

/// A value of an activation, six significant digits.
pub fn value(x: f64) -> String {
    significant(x, 6)
}

/// Tokens per second, three significant digits: `97.1 t/s`.
pub fn tokens_per_second(x: f64) -> String {
    with_unit(x, 1.0, "t/s")
}

/// Milliseconds, seconds from 1000 ms, microseconds below 0.1 ms: `12.3 ms`, `1.23 s`, `45.6 µs`.
pub fn milliseconds(x: f64) -> String {
    if x != 0.0 && x.abs() < 0.0995 {
        with_unit(x, 1e-3, "µs")
    } else if x.abs() < 999.5 {
        with_unit(x, 1.0, "ms")
    } else {
        with_unit(x, 1000.0, "s")
    }
}

/// Bytes in MiB, or GiB from 1 GiB: `56.3 MiB`, `1.18 GiB`.
pub fn bytes(x: f64) -> String {
    const MIB: f64 = 1024.0 * 1024.0;
    if x.abs() < 1023.5 * MIB {
        with_unit(x, MIB, "MiB")
    } else {
        with_unit(x, 1024.0 * MIB, "GiB")
    }
}

/// Joules, three significant digits: `12.3 J`.
pub fn joules(x: f64) -> String {
    with_unit(x, 1.0, "J")
}

/// Bytes or operations per second in billions: `35.2 GB/s`, `505 GMAC/s`.
pub fn billions(x: f64, unit: &str) -> String {
    with_unit(x, 1e9, &format!("G{unit}"))
}

/// A share in percent. Only 1 is `100%` and only 0 is `0%`: rounding never hides an exception.
pub fn share(x: f64) -> String {
    if !x.is_finite() {
        NOT_FINITE.to_owned()
    } else if x == 0.0 || x == 1.0 {
        format!("{:.0}%", x * 100.0)
    } else if (0.0..1.0).contains(&x) {
        format!("{:.2}%", (x * 100.0).clamp(0.01, 99.99))
    } else {
        format!("{}%", significant(x * 100.0, 3))
    }
}

/// A change as a share with its sign: `-3.2%`.
pub fn change(x: f64) -> String {
    let percent = 100.0 * x;
    match percent.abs() {
        size if !size.is_finite() => NOT_FINITE.to_owned(),
        size if size >= 1e7 => format!("{percent:+.1e}%"),
        size if size >= 100.0 => format!("{percent:+.0}%"),
        _ => format!("{percent:+.1}%"),
    }
}

/// A ratio: `1.23x`.
pub fn times(x: f64) -> String {
    format!("{}x", significant(x, 3))
}

/// A cosine similarity; close to 1 as the distance from it: `1 - 3.2e-9`.
pub fn cosine(x: f64) -> String {
    let distance = 1.0 - x;
    if !x.is_finite() {
        NOT_FINITE.to_owned()
    } else if (-1e-15..=0.0).contains(&distance) {
        "1".to_owned()
    } else if distance > 0.0 && distance < 1e-2 {
        format!("1 - {}", error(distance))
    } else {
        significant(x, 4)
    }
}

/// A count with thousands separated: `26,460`.
pub fn count(n: u64) -> String {
    let digits = n.to_string();
    let mut out = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// `1 token`, `2 tokens`.
pub fn plural(n: u64, noun: &str) -> String {
    format!("{} {noun}{}", count(n), if n == 1 { "" } else { "s" })
}

/// `x` by `format`, or [`NOT_MEASURED`].
pub fn or_not_measured(x: Option<f64>, format: fn(f64) -> String) -> String {
    x.map_or_else(|| NOT_MEASURED.to_owned(), format)
}

fn with_unit(x: f64, divisor: f64, unit: &str) -> String {
    if x.is_finite() {
        format!("{} {unit}", significant(x / divisor, 3))
    } else {
        NOT_FINITE.to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_have_two_digits() {
        let cases = [
            (0.0, "0"),
            (-0.0, "0"),
            (1.23e-14, "1.2e-14"),
            (0.05, "5.0e-2"),
            (9.99e-8, "1.0e-7"),
            (2.0, "2.0e0"),
            (1e300, "1.0e300"),
            (5e-324, "4.9e-324"),
            (f64::NAN, "not finite"),
            (f64::INFINITY, "not finite"),
        ];
        for (x, want) in cases {
            assert_eq!(error(x), want, "{x:?}");
        }
    }

    #[test]
    fn significant_digits() {
        let cases = [
            (97.12, 3, "97.1"),
            (99.96, 3, "100"),
            (999.6, 3, "1000"),
            (1234.0, 3, "1230"),
            (0.012345, 3, "0.0123"),
            (0.000012, 3, "1.20e-5"),
            (12_345_678.0, 3, "1.23e7"),
            (-1.5, 3, "-1.50"),
            (0.0, 3, "0"),
            (1.0, 1, "1"),
            (f64::NEG_INFINITY, 3, "not finite"),
        ];
        for (x, digits, want) in cases {
            assert_eq!(significant(x, digits), want, "{x:?}");
        }
    }

    #[test]
    fn units() {
        assert_eq!(tokens_per_second(17.44), "17.4 t/s");
        assert_eq!(tokens_per_second(f64::NAN), "not finite");
        assert_eq!(milliseconds(12.34), "12.3 ms");
        assert_eq!(milliseconds(1234.0), "1.23 s");
        assert_eq!(milliseconds(0.0456), "45.6 µs");
        assert_eq!(milliseconds(0.0), "0 ms");
        assert_eq!(bytes(0.0), "0 MiB");
        assert_eq!(bytes(59_034_828.0), "56.3 MiB");
        assert_eq!(bytes(1_267_015_352.0), "1.18 GiB");
        assert_eq!(billions(35.17e9, "B/s"), "35.2 GB/s");
        assert_eq!(joules(0.5), "0.500 J");
        assert_eq!(plural(1, "token"), "1 token");
        assert_eq!(plural(26_460, "row"), "26,460 rows");
        assert_eq!(count(0), "0");
        assert_eq!(count(u64::MAX), "18,446,744,073,709,551,615");
    }

    #[test]
    fn shares_and_cosines_never_round_to_perfect() {
        assert_eq!(share(1.0), "100%");
        assert_eq!(share(0.999_999), "99.99%");
        assert_eq!(share(1e-9), "0.01%");
        assert_eq!(share(0.0), "0%");
        assert_eq!(share(0.984_375), "98.44%");
        assert_eq!(change(-0.081), "-8.1%");
        assert_eq!(change(0.0), "+0.0%");
        assert_eq!(change(1.5), "+150%");
        assert_eq!(change(1e300), "+1.0e302%");
        assert_eq!(change(f64::MAX), "not finite");
        assert_eq!(cosine(1.0), "1");
        assert_eq!(cosine(1.0 + 2.0 * f64::EPSILON), "1");
        assert_eq!(cosine(1.0 - 3.2e-9), "1 - 3.2e-9");
        assert_eq!(cosine(0.5), "0.5000");
        assert_eq!(cosine(-1.0), "-1.000");
    }

    #[test]
    fn null_is_said() {
        assert_eq!(or_not_measured(None, error), "not measured");
        assert_eq!(or_not_measured(Some(0.0), error), "0");
    }
}
