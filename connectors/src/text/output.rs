//! Values to their text forms.
