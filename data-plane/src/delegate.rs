//! Byte streams that hand on what they are asked to the stream within.

/// Reading and writing of an enum go to what its variants hold.
macro_rules! delegate {
    ($Type:ident: $($Variant:ident),+) => {
        impl ::tokio::io::AsyncRead for $Type {
            fn poll_read(
                self: ::std::pin::Pin<&mut Self>,
                context: &mut ::std::task::Context<'_>,
                buffer: &mut ::tokio::io::ReadBuf<'_>,
            ) -> ::std::task::Poll<::std::io::Result<()>> {
                match self.get_mut() {
                    $(Self::$Variant(io) => ::std::pin::Pin::new(io).poll_read(context, buffer)),+
                }
            }
        }

        impl ::tokio::io::AsyncWrite for $Type {
            fn poll_write(
                self: ::std::pin::Pin<&mut Self>,
                context: &mut ::std::task::Context<'_>,
                bytes: &[u8],
            ) -> ::std::task::Poll<::std::io::Result<usize>> {
                match self.get_mut() {
                    $(Self::$Variant(io) => ::std::pin::Pin::new(io).poll_write(context, bytes)),+
                }
            }

            fn poll_write_vectored(
                self: ::std::pin::Pin<&mut Self>,
                context: &mut ::std::task::Context<'_>,
                parts: &[::std::io::IoSlice<'_>],
            ) -> ::std::task::Poll<::std::io::Result<usize>> {
                match self.get_mut() {
                    $(Self::$Variant(io) => {
                        ::std::pin::Pin::new(io).poll_write_vectored(context, parts)
                    }),+
                }
            }

            fn is_write_vectored(&self) -> bool {
                match self { $(Self::$Variant(io) => io.is_write_vectored()),+ }
            }

            fn poll_flush(
                self: ::std::pin::Pin<&mut Self>,
                context: &mut ::std::task::Context<'_>,
            ) -> ::std::task::Poll<::std::io::Result<()>> {
                match self.get_mut() {
                    $(Self::$Variant(io) => ::std::pin::Pin::new(io).poll_flush(context)),+
                }
            }

            fn poll_shutdown(
                self: ::std::pin::Pin<&mut Self>,
                context: &mut ::std::task::Context<'_>,
            ) -> ::std::task::Poll<::std::io::Result<()>> {
                match self.get_mut() {
                    $(Self::$Variant(io) => ::std::pin::Pin::new(io).poll_shutdown(context)),+
                }
            }
        }
    };
}

/// Within an `AsyncWrite`: all but the shutdown goes to a field.
macro_rules! write_to {
    ($field:ident) => {
        fn poll_write(
            self: ::std::pin::Pin<&mut Self>,
            context: &mut ::std::task::Context<'_>,
            bytes: &[u8],
        ) -> ::std::task::Poll<::std::io::Result<usize>> {
            ::std::pin::Pin::new(&mut self.get_mut().$field).poll_write(context, bytes)
        }

        fn poll_write_vectored(
            self: ::std::pin::Pin<&mut Self>,
            context: &mut ::std::task::Context<'_>,
            parts: &[::std::io::IoSlice<'_>],
        ) -> ::std::task::Poll<::std::io::Result<usize>> {
            ::std::pin::Pin::new(&mut self.get_mut().$field).poll_write_vectored(context, parts)
        }

        fn is_write_vectored(&self) -> bool {
            self.$field.is_write_vectored()
        }

        fn poll_flush(
            self: ::std::pin::Pin<&mut Self>,
            context: &mut ::std::task::Context<'_>,
        ) -> ::std::task::Poll<::std::io::Result<()>> {
            ::std::pin::Pin::new(&mut self.get_mut().$field).poll_flush(context)
        }
    };
}

/// As `write_to`, the shutdown too.
macro_rules! write_all_to {
    ($field:ident) => {
        $crate::delegate::write_to!($field);

        fn poll_shutdown(
            self: ::std::pin::Pin<&mut Self>,
            context: &mut ::std::task::Context<'_>,
        ) -> ::std::task::Poll<::std::io::Result<()>> {
            ::std::pin::Pin::new(&mut self.get_mut().$field).poll_shutdown(context)
        }
    };
}

pub(crate) use {delegate, write_all_to, write_to};
