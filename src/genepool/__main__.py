from genepool.cli.main import main

main()
