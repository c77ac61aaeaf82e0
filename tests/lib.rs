//! Holds no code: the tests are the one test target of this package.
