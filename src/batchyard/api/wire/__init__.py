"""What every request needs: signature, version, conditions, bodies, answers."""
