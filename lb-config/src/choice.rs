//! Enums with a name in the configuration for each variant.

/// An enum with a name in the configuration for each variant.
pub(super) trait Choice: Copy + PartialEq + 'static {
    /// Names, values, and their doc comments.
    const ALL: &'static [(&'static str, Self, &'static str)];
}

/// Declares an enum with a name in the configuration for each variant. The first one is the
/// default.
macro_rules! choice {
    (
        $(#[doc = $about:literal])+ $(#[derive($($derive:ident),+)])?
        $vis:vis enum $name:ident {
            $($(#[doc = $doc:literal])+ $variant:ident = $text:literal,)+
        }
    ) => {
        $(#[doc = $about])+
        #[derive(Clone, Copy, Debug, PartialEq, Eq $($(, $derive)+)?)]
        $vis enum $name {
            $($(#[doc = $doc])+ $variant,)+
        }

        impl Default for $name {
            fn default() -> Self {
                <Self as $crate::choice::Choice>::ALL[0].1
            }
        }

        impl $crate::choice::Choice for $name {
            const ALL: &'static [(&'static str, Self, &'static str)] =
                &[$(($text, Self::$variant, concat!($($doc),+)),)+];
        }
    };
}
pub(super) use choice;
