"""What somebody new meets, on bare Debian roots; contrib/newcomer is its command line."""
