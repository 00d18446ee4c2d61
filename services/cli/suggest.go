package cli

import (
	"fmt"

	"keelson/internal/typo"
)

// didYouMean returns a hint at what was probably meant, or nothing.
func didYouMean(word string, known []string) string {
	best := typo.Nearest(word, known, len(word)/2)
	if best == "" {
		return ""
	}
	return fmt.Sprintf("; did you mean %q?", best)
}
