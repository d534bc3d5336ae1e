echo "made in a builder"
